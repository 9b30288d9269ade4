"""Reads and writes checkpoint files, and loads them into a model."""

import functools
import json
import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from yolact.config import PRESETS, Preset, Publication
from yolact.files import written_whole
from yolact.models.yolact import Yolact
from yolact.weights.layouts import recognise, to_ours

_MAX_LISTED = 12
_SAFETENSORS_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights in our layout.

    Attributes:
        source: its name in messages: the path of the file, or "the state dict".
        state: parameters and buffers by our names.
        preset: name of the preset that it was saved from, if the file says so.
        class_names: if the file says so.
    """

    source: str
    state: dict[str, Tensor]
    preset: str | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int | None:
        """The number of classes without the background; None if the checkpoint does not show it."""
        semantic = self.state.get("semantic.weight")
        return None if semantic is None or semantic.dim() == 0 else semantic.shape[0]


def read_checkpoint(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> Checkpoint:
    """Reads a checkpoint in our, the original's or mmdetection's layout, from a file or a state dict.

    A training run's own checkpoint counts as the weights that the run would evaluate.

    Raises:
        CheckpointError: if the file is missing, broken, would run code, or holds no YOLACT.
    """
    state: Mapping[str, Any]
    metadata: dict[str, str] = {}
    if isinstance(source, Mapping):
        name, state = "the state dict", source
    else:
        name = os.fspath(source)
        state, metadata = _read_file(Path(source))
    if is_of_run(state):
        content: Mapping[str, Any] = state
        metadata = {"preset": content["run"]["preset"], "class_names": "\n".join(content["run"]["class_names"])}
        state = content["network"] if content["average"] is None else content["average"]
    inner: Any = state.get("state_dict")
    if isinstance(inner, Mapping):
        state = inner
    layout = recognise(state) if all(isinstance(name, str) for name in state) else None
    if layout is None:
        raise CheckpointError(
            f"{name}: this is not a YOLACT checkpoint in our, the original's or mmdetection's layout"
            f" (its entries: {_listed(map(str, state))})"
        )
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    class_names = metadata.get("class_names")
    return Checkpoint(
        name,
        to_ours(tensors, layout),
        metadata.get("preset"),
        tuple(class_names.split("\n")) if class_names is not None else None,
    )


def is_of_run(state: Mapping[str, Any]) -> bool:
    """Whether the content of a file is a checkpoint of `yolact train`, from which a run is resumed."""
    run = state.get("run")
    return (
        isinstance(run, Mapping) and {"preset", "class_names"} <= run.keys() and {"network", "average"} <= state.keys()
    )


def load_weights(model: Yolact, source: str | os.PathLike[str] | Mapping[str, Tensor] | Checkpoint) -> None:
    """Copies a checkpoint into `model`.

    Args:
        model: the network; its preset and class count must be those of the checkpoint.
        source: a file (safetensors in our layout, or a PyTorch file in the original's or mmdetection's), a state dict
            in any of these layouts, or the result of `read_checkpoint`.

    Raises:
        CheckpointError: if it does not fit. The message lists the entries that are missing, surplus or of another
            shape, and says which preset and class count the checkpoint is for. The model then stays as it was.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in checkpoint.state.items()}
    problems = []
    if missing := sorted(expected.keys() - given.keys()):
        problems.append(f"missing: {_listed(missing)}")
    if surplus := sorted(given.keys() - expected.keys()):
        problems.append(f"surplus: {_listed(surplus)}")
    both = sorted(expected.keys() & given.keys())
    if wrong := [f"{name} is {given[name]}, not {expected[name]}" for name in both if given[name] != expected[name]]:
        problems.append(f"of another shape: {_listed(wrong)}")
    if problems:
        raise CheckpointError(
            f"{checkpoint.source} does not fit {model.preset.name} with {model.num_classes} classes: "
            f"{'; '.join(problems)}. {_advice(checkpoint)}"
        )
    saved_from = PRESETS.get(checkpoint.preset or "")
    if saved_from is not None and not same_network(saved_from, model.preset):
        raise CheckpointError(
            f"{checkpoint.source} was saved from {saved_from.name}, which has the shapes of {model.preset.name} but "
            f"other anchors or another input: use build_model({saved_from.name!r})"
        )
    check_finite(checkpoint.state, checkpoint.source)
    model.load_state_dict(checkpoint.state)


def save_weights(model: Yolact, path: str | os.PathLike[str], class_names: tuple[str, ...] | list[str]) -> None:
    """Writes a model's weights as safetensors, with its preset's and its classes' names as metadata.

    Raises:
        ValueError: if a class name holds a line break.
        OSError: if the file cannot be written.
    """
    if any("\n" in name for name in class_names):
        raise ValueError("a class name must not hold a line break")
    metadata = {"format": "pt", "preset": model.preset.name, "class_names": "\n".join(class_names)}
    write_safetensors(path, model.state_dict(), metadata)


def write_safetensors(path: str | os.PathLike[str], state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors in the format of safetensors, one after the other.

    Its own library hides why a file cannot be written, or holds the tensors twice more in memory.

    Raises:
        OSError: if the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    names = sorted(state, key=lambda name: (-state[name].element_size(), name))  # aligned without gaps
    end = 0
    for name in names:
        begin, end = end, end + state[name].nbytes
        kind = _SAFETENSORS_TYPES[state[name].dtype]
        header[name] = {"dtype": kind, "shape": list(state[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with written_whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def fitting_presets(checkpoint: Checkpoint) -> list[Preset]:
    """The presets whose network has exactly the checkpoint's names and shapes, given its class count."""
    if checkpoint.num_classes is None:
        return []
    shapes = {name: tuple(value.shape) for name, value in checkpoint.state.items()}
    return [preset for preset in PRESETS.values() if _shapes(preset, checkpoint.num_classes) == shapes]


def same_network(a: Preset, b: Preset) -> bool:
    """Whether two presets differ only in their name, their classes and their publication."""
    return _network(a) == _network(b)


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raises `CheckpointError` with the names of the tensors that hold NaN or infinity."""
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{source}: NaN or infinite weights in {_listed(bad)}; the training that wrote them diverged"
        )


def _network(preset: Preset) -> Preset:
    return replace(preset, name="", class_names=(), publication=Publication())


@functools.cache
def _shapes(preset: Preset, num_classes: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = Yolact(preset, num_classes).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def _advice(checkpoint: Checkpoint) -> str:
    fitting = fitting_presets(checkpoint)
    if not fitting:
        return "It fits no preset: the file is incomplete, or the network was modified"
    names = " or ".join(f"build_model({preset.name!r}, num_classes={checkpoint.num_classes})" for preset in fitting)
    return f"The checkpoint fits {names}"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return "none"
    rest = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    return ", ".join(listed[:_MAX_LISTED]) + rest


def _read_file(path: Path) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if path.is_dir():
        raise CheckpointError(f"{path}: this is a folder, not a checkpoint")
    if not path.is_file():
        raise CheckpointError(f"{path}: this is not a regular file")
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise CheckpointError(f"{path}: the file is empty")
    if start in (b"PK", b"\x80\x02"):
        return _read_pickle(path), {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path}: this is neither a safetensors nor a PyTorch file, or it is broken ({error})"
        ) from None


def _read_pickle(path: Path) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive")  # the error below says what to do
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: refused, because it is broken or reading it would run code ({reason}); ask its author for the "
            f"bare state dict or a safetensors file"
        ) from None
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: this is an exported TorchScript model, not a checkpoint; run it as it is, with yolact "
                f"predict, yolact-segment or yolact.load_exported"
            ) from None
        raise CheckpointError(f"{path}: the file is broken or truncated ({str(error).partition(chr(10))[0]})") from None
    except Exception as error:  # broken bytes make torch.load raise anything
        raise CheckpointError(f"{path}: the file is broken or truncated ({error})") from None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: the file holds a {type(state).__name__}, not a state dict")
    return state
