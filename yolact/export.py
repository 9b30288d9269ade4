"""Export: a detector as one file that LibTorch runs without Python, and reading such a file back."""

import importlib.metadata
import os
import warnings
from pathlib import Path

import torch

from yolact.files import written_whole
from yolact.models.detector import Detector
from yolact.weights.checkpoints import check_finite

FORMAT = 1  # raised when a runtime that knows the lower number could not run the file

# What a frozen model still lets its user call and set. `pixel_mean` tells the device: see Detector.
_KEPT = [
    "forward_batch",
    "preprocess",
    "postprocess",
    "class_names",
    "score_threshold",
    "iou_threshold",
    "max_detections",
    "pixel_mean",
]
_METADATA = ("yolact_format", "yolact_version", "preset", "image_size", "class_names")


class ModelFileError(ValueError):
    """A model file that cannot be run; the message names it and says why."""


def script(detector: Detector) -> torch.jit.ScriptModule:
    """The detector as one frozen TorchScript graph, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=Warning)
        scripted = torch.jit.script(detector.eval())
        # Without numeric rewrites (such as folded batch norms) the file gives what Python gives, bit for bit.
        return torch.jit.freeze(scripted, preserved_attrs=_KEPT, optimize_numerics=False)


def export(detector: Detector, path: str | os.PathLike[str]) -> None:
    """Writes the scripted, frozen detector with its metadata as extra files.

    Raises:
        CheckpointError: if the weights are not finite.
        ValueError: if a class name holds a line break.
        OSError: if the file cannot be written.
    """
    check_finite(detector.model.state_dict(), f"{detector.model.preset.name}, to be exported to {path}")
    if any("\n" in name for name in detector.class_names):
        raise ValueError("a class name must not hold a line break")
    metadata = {
        "yolact_format": str(FORMAT),
        "yolact_version": importlib.metadata.version("yolact"),
        "preset": detector.model.preset.name,
        "image_size": str(detector.image_size),
        "class_names": "\n".join(detector.class_names),
    }
    with written_whole(path) as temporary:
        script(detector).save(str(temporary), _extra_files=metadata)


def load_exported(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
    """A model that `export` wrote; it is called and set like a `Detector`.

    Raises:
        ModelFileError: if the file is missing, is not such a model, or was written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    metadata = dict.fromkeys(_METADATA, "")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=Warning)
            model = torch.jit.load(str(path), map_location=device, _extra_files=metadata)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ModelFileError(
            f"{path}: this is not a model written by `yolact export`, or a broken one ({reason})"
        ) from None
    texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in metadata.items()}
    if not texts["yolact_format"].isdigit():
        raise ModelFileError(f"{path}: this is a TorchScript file, but none written by `yolact export`")
    if int(texts["yolact_format"]) > FORMAT:
        raise ModelFileError(
            f"{path}: written by yolact {texts['yolact_version']} in format {texts['yolact_format']}, but this version "
            f"reads formats up to {FORMAT}: upgrade yolact"
        )
    return model


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a TorchScript archive, as opposed to a checkpoint."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))
    except RuntimeError:
        return False
    return reader.has_record("constants.pkl")
