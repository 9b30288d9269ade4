"""Draws detections onto images."""

import colorsys
import math

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from yolact.models.detections import Detections


def class_color(label: int) -> tuple[int, int, int]:
    """The RGB colour (0–255) of a class. It never changes, and its neighbours differ clearly. C++ has the same."""
    golden_ratio = 0.618033988749895
    red, green, blue = colorsys.hsv_to_rgb(math.modf(label * golden_ratio)[0], 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: Tensor, detections: Detections, class_names: list[str], opacity: float = 0.5) -> Tensor:
    """Draws masks, boxes, class names and scores onto a copy of `image`. The best detection is on top.

    Args:
        image: uint8 RGB [H, W, 3] or [3, H, W].
        detections: of that image, on any device.
        class_names: the name of each label.
        opacity: of the masks, 0–1.

    Returns:
        uint8 RGB [3, H, W] on the CPU.
    """
    planes = (image.permute(2, 0, 1) if image.shape[2] == 3 else image).cpu()
    if len(detections.labels) == 0:
        return planes.contiguous().clone()
    labels = detections.labels.tolist()
    colors = [class_color(label) for label in labels]
    captions = [
        f"{class_names[label]} {score:.2f}" for label, score in zip(labels, detections.scores.tolist(), strict=True)
    ]
    visible = detections.masks.cpu().clone()
    covered = torch.zeros_like(visible[0])
    for mask in visible:  # each pixel keeps only its best mask: torchvision paints black where masks overlap
        mask &= ~covered
        covered |= mask
    picture = draw_segmentation_masks(planes, visible, alpha=opacity, colors=colors)
    backwards = torch.arange(len(labels) - 1, -1, -1)
    return draw_bounding_boxes(
        picture,
        detections.boxes.cpu()[backwards],
        captions[::-1],
        colors=colors[::-1],
        width=max(1, round(min(planes.shape[1:]) / 300)),
        fill_labels=True,
    )
