"""Exports a detector as one file that LibTorch runs without Python, and reads such a file back."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from yolact.files import written_whole
from yolact.models.detector import Detector
from yolact.models.inference import PRECISIONS, pack_weights, unpack_weights
from yolact.models.yolact import Yolact
from yolact.ops import _library
from yolact.version import FILE_FORMAT, __version__
from yolact.weights.checkpoints import check_finite


class ModelFileError(ValueError):
    """A model file that cannot be run; the message names it and says why."""


def script(detector: Detector) -> torch.jit.ScriptModule:
    """The detector as TorchScript, in evaluation mode and without packed weights, so that it can be saved."""
    with _deprecation_silenced():
        scripted = torch.jit.script(detector.eval())
    unpack_weights(scripted)
    return scripted


@contextmanager
def _deprecation_silenced() -> Iterator[None]:
    """Silences torch's warning that TorchScript is deprecated; docs/architecture.md says why we use it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=Warning)
        yield


def export(detector: Detector, path: str | os.PathLike[str], precision: str | None = None) -> None:
    """Optimizes and scripts a detector and writes it to a file, with its metadata as extra files.

    Args:
        detector: optimized already, or not.
        path: of the file.
        precision: of weights and activations, see `Detector.optimize`. The default is fp32, or the precision of the
            optimized detector.

    Raises:
        CheckpointError: if the weights are not finite, or would not be in that precision.
        ValueError: if a class name holds a line break, if the precision is unknown, or if it differs from that of
            the optimized detector.
        OSError: if the file cannot be written.
    """
    check_finite(detector.model.state_dict(), f"{detector.model.preset.name}, to be exported to {path}")
    if any("\n" in name for name in detector.class_names):
        raise ValueError("a class name must not hold a line break")
    if isinstance(detector.model, Yolact):
        detector = detector.optimize(precision or "fp32")
        what = f"{detector.model.preset.name} in {detector.model.precision}"
        check_finite(detector.model.state_dict(), f"{what}, to be exported to {path}")
    elif precision not in (None, detector.model.precision):
        raise ValueError(
            f"the detector is optimized for {detector.model.precision}: it cannot be exported as {precision}"
        )
    metadata = {
        "yolact_format": str(FILE_FORMAT),
        "yolact_version": __version__,
        "preset": detector.model.preset.name,
        "precision": detector.model.precision,
        "image_size": str(detector.image_size),
        "class_names": "\n".join(detector.class_names),
    }
    with written_whole(path) as file:
        file.write(script(detector).save_to_buffer(_extra_files=metadata))


def load_script(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", precision: str | None = None
) -> torch.jit.ScriptModule:
    """Loads a file that `export` wrote, as TorchScript. `yolact.load_exported` adds a `Detector`'s interface.

    The weights are packed for `device`. To use another device, load the file again instead of moving the model.

    Args:
        path: of the file.
        device: for the model.
        precision: of the network, one of `PRECISIONS`. The default is the file's precision.

    Raises:
        ModelFileError: if the file is missing, is not such a model, or was written by a newer version.
        ValueError: if the precision is unknown.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        # A newer file may hold operators that this version lacks, so it is not loaded.
        _check_format(reader, path)
        with _deprecation_silenced():
            model = torch.jit.load(str(path), map_location=device)
        if precision is not None:
            model.model.to(PRECISIONS[precision])
            model.model.precision = precision
        pack_weights(model)
        return model
    except RuntimeError as error:
        reason = next(filter(None, str(error).splitlines()), "")
        if "Unknown builtin op" in str(error):
            operator = str(error).partition("Unknown builtin op: ")[2].partition("\n")[0].rstrip(".")
            raise ModelFileError(
                f"{path}: the model needs the operator {operator}, which the compiled operators ({_library.PATH}) of "
                f"yolact {__version__} do not have: install the version that wrote the file, or build them again"
            ) from None
        raise ModelFileError(
            f"{path}: this is not a model written by `yolact export`, or the file is broken: {reason}"
        ) from None


def _check_format(reader: Any, path: Path) -> None:
    def text(key: str) -> str:
        return reader.get_record(f"extra/{key}").decode() if reader.has_record(f"extra/{key}") else ""

    number = int(text("yolact_format")) if text("yolact_format").isdecimal() else 0
    if number > FILE_FORMAT:
        raise ModelFileError(
            f"{path}: this file was written by yolact {text('yolact_version')} in format {number}, but this version "
            f"reads format {FILE_FORMAT}: upgrade yolact"
        )
    if number != FILE_FORMAT:
        raise ModelFileError(f"{path}: this is a PyTorch file, but not a model written by `yolact export`")


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a TorchScript archive and not a checkpoint."""
    if not os.path.isfile(path):  # torch would wait for the writer of a pipe
        return False
    try:
        reader: Any = torch._C.PyTorchFileReader(str(path))  # torch's types lack its methods
    except RuntimeError:
        return False
    return reader.has_record("constants.pkl")
