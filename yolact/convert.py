"""`yolact convert`: a checkpoint from one layout into another, so that models go to the original's tools and back."""

import os

import torch

from yolact.api import load
from yolact.config import Preset
from yolact.files import written_whole
from yolact.models.backbones import find_backbone
from yolact.weights.checkpoints import save_weights
from yolact.weights.layouts import to_original


def convert(
    source: str | os.PathLike[str], output: str | os.PathLike[str], to: str, preset: str | None = None
) -> Preset:
    """Writes a checkpoint in another layout.

    Args:
        source: what `yolact.load` takes: a file in our, the original's or mmdetection's layout, or a preset's name.
        output: the file to write: safetensors in our layout, which knows its preset and class names, or a PyTorch file
            in the original's, which knows neither. The original's tools find the configuration by a name such as
            yolact_base_54_800000.pth.
        to: "yolact" (ours) or "original".
        preset: of a source that does not tell it.

    Returns:
        The preset.

    Raises:
        ValueError: if there is no such source or layout, or the original has no such network.
        DownloadError: if a published checkpoint could not be fetched.
        OSError: if the file cannot be written.
    """
    if to not in ("yolact", "original"):
        raise ValueError(f"to must be yolact or original, got {to!r}")
    detector = load(source, preset=preset)
    model = detector.model
    if to == "yolact":
        save_weights(model, output, detector.class_names)
        return model.preset
    if different := _unknown_to_original(model.preset):
        raise ValueError(
            f"{os.fspath(source)}: the original has no network such as {model.preset.name} ({different}): convert it "
            f"to yolact"
        )
    with written_whole(output) as temporary:
        torch.save(to_original(model.state_dict()), temporary)
    return model.preset


def _unknown_to_original(preset: Preset) -> str:
    """What of a network the original's code cannot build; empty if nothing."""
    if not find_backbone(preset.backbone).in_original:
        return f"its backbone is {preset.backbone}"
    if preset.p6_from_c5 or not preset.fpn_relu:
        return "its feature pyramid is mmdetection's"
    return ""
