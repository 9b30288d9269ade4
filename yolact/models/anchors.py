"""Anchor boxes and the encoding of boxes by them (YOLACT, section 5; SSD's encoding)."""

import math

import torch
from torch import Tensor

from yolact.config import Anchors

NUM_LEVELS = 5


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of P3–P7 for an input of `height` × `width` pixels: each stride-2 layer rounds up."""
    sizes = []
    for level in range(3, 3 + NUM_LEVELS):
        sizes.append((-(-height // 2**level), -(-width // 2**level)))
    return sizes


def make_anchors(anchors: Anchors, height: int, width: int) -> Tensor:
    """Anchors of an input of `height` × `width` pixels.

    Returns:
        [A, 4] float32 xyxy relative to the input, centres at ((column + 0.5) / columns, (row + 0.5) / rows),
        not clipped, in the order of `Head.forward`.
    """
    boxes = []
    for (rows, columns), scales in zip(level_sizes(height, width), anchors.scales, strict=True):
        shapes = []
        for scale in scales:
            for ratio in anchors.aspect_ratios:
                side = scale * math.sqrt(ratio)
                shapes.append((side / width, (side if anchors.square else scale / math.sqrt(ratio)) / height))
        # The original also rounds to float32 before it makes the corners. Several anchors often have the same IoU
        # with an object, and then the last bit decides which of them the object takes.
        half = torch.tensor(shapes, dtype=torch.float64).float() / 2
        y, x = torch.meshgrid(
            (torch.arange(rows, dtype=torch.float64) + 0.5) / rows,
            (torch.arange(columns, dtype=torch.float64) + 0.5) / columns,
            indexing="ij",
        )
        centres = torch.stack((x, y), dim=-1)[:, :, None].float()
        boxes.append(torch.cat((centres - half, centres + half), dim=-1).reshape(-1, 4))
    return torch.cat(boxes)


def encode(boxes: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """The deltas that `yolact.ops.reference.decode` turns into `boxes` (without its clamp).

    Args:
        boxes: [..., 4] xyxy.
        anchors: [..., 4] xyxy, one for each box, in the same unit.
        variances: what the deltas of the centres and those of the sizes are divided by.

    Returns:
        [..., 4]: centre x, centre y, width and height, encoded. A side shorter than 1e-6 counts as 1e-6.
    """
    anchor_sizes = anchors[..., 2:] - anchors[..., :2]
    offsets = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    scales = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6) / anchor_sizes
    return torch.cat((offsets / (variances[0] * anchor_sizes), scales.log() / variances[1]), dim=-1)
