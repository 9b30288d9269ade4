"""The table of all presets that `yolact models` prints and docs/model_zoo.md shows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yolact.config import PRESETS, Preset
from yolact.models.deformable import DeformConv2d
from yolact.models.yolact import Yolact

HEADINGS = ("preset", "backbone", "size", "classes", "mask AP", "FPS", "parameters", "GFLOPs", "licence")


@dataclass(frozen=True)
class Cost:
    """The size of a preset's network.

    parameters: number of trained parameters, including those of the losses and of mask re-scoring.
    flops: floating-point operations for one image of the preset's size, from the network's input to its raw
        predictions. A multiplication and an addition are two operations. Mask re-scoring is not included, because
        its cost depends on the number of detections.
    """

    parameters: int
    flops: int


def cost_of(preset: Preset) -> Cost:
    """Counts on a network without weights, so that nothing is computed."""
    flops = 0

    def count(convolution: nn.Module, _: object, output: Tensor) -> None:
        nonlocal flops
        flops += 2 * output.numel() * convolution.get_parameter("weight")[0].numel()

    with torch.device("meta"), torch.no_grad():
        model = Yolact(preset).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | DeformConv2d):
                module.register_forward_hook(count)
            elif isinstance(module, nn.BatchNorm2d):
                # torch takes seconds for them on this device
                module.forward = nn.Identity().forward  # type: ignore[method-assign]
        model(torch.empty(1, 3, preset.image_size, preset.image_size))
    return Cost(sum(parameter.numel() for parameter in model.parameters()), flops)


def row_of(preset: Preset) -> tuple[str, ...]:
    """The texts of a preset's row, in the order of `HEADINGS`. A text is empty if the value is not published."""
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
        "scripts/model_zoo.py writes this page. `yolact models` prints the same table and says which weights are on "
        "this machine.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
    ]
    for preset in PRESETS.values():
        name, *rest = row_of(preset)
        lines.append(f"| {' | '.join((f'`{name}`', *rest))} |")
    lines += [
        "",
        "- Mask AP and FPS are the authors' published numbers on COCO. They measured FPS on a Titan Xp.",
        "- GFLOPs are for one image of that size. A multiplication and an addition count as two operations.",
        "- The licence is that of the published weights: the licence of the repository that publishes them. It is "
        "empty if no weights are published.",
    ]
    return "\n".join(lines) + "\n"
