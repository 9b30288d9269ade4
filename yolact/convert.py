"""`yolact convert`: writes a checkpoint in another layout, so that models go to the original's tools and back."""

import os

import torch

from yolact.api import load
from yolact.config import Preset
from yolact.files import written_whole
from yolact.models.backbones import find_backbone
from yolact.models.yolact import Yolact
from yolact.weights.checkpoints import save_weights
from yolact.weights.layouts import to_original


def convert(
    source: str | os.PathLike[str], output: str | os.PathLike[str], to: str, preset: str | None = None
) -> Preset:
    """Writes a checkpoint in another layout.

    Args:
        source: as `yolact.load` takes it: a file in our, the original's or mmdetection's layout, or a preset's name.
        output: the file to write. In our layout it is a safetensors file that names its preset and classes. In the
            original's it is a PyTorch file that names neither; the original's tools read the configuration from a
            file name such as yolact_base_54_800000.pth.
        to: "yolact" (ours) or "original".
        preset: the preset of `source`, if the file does not tell it.

    Returns:
        The preset.

    Raises:
        ValueError: if there is no such source or layout, or the original's code has no such network.
        DownloadError: if a published checkpoint could not be fetched.
        OSError: if the file cannot be written.
    """
    if to not in ("yolact", "original"):
        raise ValueError(f"to must be yolact or original, got {to!r}")
    detector = load(source, preset=preset)
    model = detector.model
    assert isinstance(model, Yolact)
    if to == "yolact":
        save_weights(model, output, detector.class_names)
        return model.preset
    if different := _unknown_to_original(model.preset):
        raise ValueError(
            f"{os.fspath(source)}: the original has no network such as {model.preset.name} ({different}): convert it "
            f"to yolact"
        )
    with written_whole(output) as file:
        torch.save(to_original(model.state_dict()), file)
    return model.preset


def _unknown_to_original(preset: Preset) -> str:
    """The part of a network that the original's code cannot build, in words; empty if it can build all."""
    if not find_backbone(preset.backbone).in_original:
        return f"its backbone is {preset.backbone}"
    if preset.p6_from_c5 or not preset.fpn_relu:
        return "its feature pyramid is mmdetection's"
    return ""
