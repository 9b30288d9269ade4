"""What there is to know of each preset in a row: the table of `yolact models` and of docs/model_zoo.md."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from yolact.config import PRESETS, Preset
from yolact.models.yolact import Yolact

HEADINGS = ("preset", "backbone", "size", "classes", "mask AP", "FPS", "parameters", "GFLOPs", "licence")


@dataclass(frozen=True)
class Cost:
    """Of a preset's network, counted.

    parameters: trained ones, those of the losses and of mask re-scoring among them.
    flops: of one image at the preset's size from the network's input to its raw predictions; a product and a sum are
        two. Mask re-scoring, which works on the masks found, is not in it.
    """

    parameters: int
    flops: int


def cost_of(preset: Preset) -> Cost:
    """Counted on a network without weights: nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        model = Yolact(preset).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            model(torch.empty(1, 3, preset.image_size, preset.image_size))
    return Cost(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops())


def row_of(preset: Preset) -> tuple[str, ...]:
    """The texts below `HEADINGS`; empty where nothing is published."""
    publication, cost = preset.publication, cost_of(preset)
    return (
        preset.name,
        preset.backbone + (" + DCNv2" if preset.deformable_interval > 0 else ""),
        str(preset.image_size),
        str(preset.num_classes),
        "" if publication.mask_map is None else f"{publication.mask_map} {publication.split}",
        "" if publication.fps is None else str(publication.fps),
        f"{cost.parameters / 1e6:.1f} M",
        f"{cost.flops / 1e9:.1f}",
        publication.licence,
    )


def markdown() -> str:
    """The content of docs/model_zoo.md."""
    lines = [
        "# Models",
        "",
        "Written by scripts/model_zoo.py. `yolact models` prints the same and says which weights are on this machine.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
    ]
    for preset in PRESETS.values():
        name, *rest = row_of(preset)
        lines.append(f"| {' | '.join((f'`{name}`', *rest))} |")
    lines += [
        "",
        "- mask AP and FPS are those that the authors published, on COCO; their FPS were measured on a Titan Xp.",
        "- Parameters and GFLOPs are counted: one image of that size through the network, a multiplication and an "
        "addition being two.",
        "- The licence is that of the weights, which is that of the repository that publishes them; empty where none "
        "are published.",
    ]
    return "\n".join(lines) + "\n"
