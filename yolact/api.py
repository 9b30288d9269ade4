"""`yolact.load`: one call that makes a detector from a preset's name or a checkpoint file."""

import os
from pathlib import Path

import torch

from yolact.config import PRESETS, Preset, get_preset
from yolact.models.detector import Detector
from yolact.models.yolact import Yolact
from yolact.ops import cuda_ops_available
from yolact.weights.checkpoints import (
    Checkpoint,
    CheckpointError,
    fitting_presets,
    load_weights,
    read_checkpoint,
    same_network,
)
from yolact.weights.download import fetch


def load(
    name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu", preset: str | None = None
) -> Detector:
    """A detector with trained weights, in evaluation mode.

    Args:
        name_or_path: a preset's name, whose published checkpoint is downloaded once, or a checkpoint file in our,
            the original's or mmdetection's layout.
        device: the device that will run the detector.
        preset: the preset of a file that does not say it. It is needed only if several presets fit (all shapes of the
            original's base, im400 and im700 are equal) and the file is not named after one of them.

    Raises:
        ValueError: if there is no such preset or file, the checkpoint does not fit, or `device` cannot be used.
        DownloadError: if a published checkpoint could not be fetched.
    """
    device = usable_device(device)
    name = os.fspath(name_or_path)
    if name in PRESETS:
        chosen = PRESETS[name]
        checkpoint = read_checkpoint(fetch(chosen))
    elif not Path(name).exists() and not Path(name).suffix and Path(name).name == name:
        raise ValueError(f"{name!r} is neither a file nor a preset; the presets are: {', '.join(PRESETS)}")
    else:
        checkpoint = read_checkpoint(name)
        chosen = get_preset(preset) if preset is not None else _preset_of(checkpoint)
    model = Yolact(chosen, checkpoint.num_classes)
    load_weights(model, checkpoint)
    return Detector(model.to(device), checkpoint.class_names).eval()


def usable_device(device: str | torch.device) -> torch.device:
    """`device` as torch's type, after a check that the operators run on it.

    Raises:
        ValueError: if they do not; the message says what is missing.
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"{device!r} is not a device: give cpu, cuda or cuda:0, cuda:1, …") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device} is not supported: give cpu or cuda")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {device} was asked for, but torch {torch.__version__} finds no CUDA device")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise ValueError(f"device {device} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
        if not cuda_ops_available():
            raise ValueError(
                "the operators were built without CUDA: install a CUDA toolkit and build them again "
                "(YOLACT_CUDA=1 python setup.py build_ext --inplace)"
            )
    return device


def _preset_of(checkpoint: Checkpoint) -> Preset:
    """The preset that a checkpoint was saved from: what the file says, or else its shapes and its name tell it.

    Raises:
        CheckpointError: if none or several fit.
    """
    if checkpoint.preset is not None:
        return get_preset(checkpoint.preset)
    fitting = fitting_presets(checkpoint)
    with_count = [preset for preset in fitting if preset.num_classes == checkpoint.num_classes]
    fitting = with_count or fitting
    file = Path(checkpoint.source).name
    named = [preset for preset in fitting if file.startswith(preset.name)]
    fitting = [max(named, key=lambda preset: len(preset.name))] if named else fitting
    if not fitting:
        raise CheckpointError(
            f"{checkpoint.source} does not fit any preset completely: name the right one with load(path, preset=…) to "
            f"see what differs"
        )
    if not all(same_network(preset, fitting[0]) for preset in fitting):
        names = ", ".join(preset.name for preset in fitting)
        raise CheckpointError(
            f"{checkpoint.source} fits each of {names}: say which one it is with load(path, preset=…), on the command "
            f"line with --preset"
        )
    return fitting[0]
