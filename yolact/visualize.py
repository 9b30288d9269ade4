"""Draws detections onto images."""

import colorsys
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from yolact.models.detections import CroppedDetections, Detections, EncodedDetections, mask_crops
from yolact.run_lengths import MaskCrop
from yolact.text import text_pixels

Color = tuple[int, int, int]


def class_color(label: int) -> Color:
    """The RGB colour (0–255) of a class. It never changes, and its neighbours differ clearly. C++ has the same."""
    golden_ratio = 0.618033988749895
    red, green, blue = colorsys.hsv_to_rgb(math.modf(label * golden_ratio)[0], 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(
    image: Tensor,
    detections: Detections | EncodedDetections | CroppedDetections,
    class_names: list[str],
    opacity: float = 0.5,
) -> Tensor:
    """Draws masks, boxes, class names and scores onto a copy of `image`. The best detection is on top.

    Masks are drawn one at a time. Run lengths (`Detector.forward_encoded`) take the least memory.

    Args:
        image: uint8 RGB [H, W, 3] or [3, H, W].
        detections: of that image, on any device.
        class_names: the name of each label.
        opacity: of the masks, 0–1.

    Returns:
        uint8 RGB [3, H, W] on the CPU.

    Raises:
        ValueError: if the detections belong to an image of another size.
    """
    planes = (image.permute(2, 0, 1) if image.shape[2] == 3 else image).cpu()
    picture = planes.clone(memory_format=torch.contiguous_format)
    if len(detections.labels) == 0:
        return picture
    if isinstance(detections, Detections):
        height, width = detections.masks.shape[1:]
    else:
        height, width = detections.height, detections.width
    if (height, width) != picture.shape[1:]:
        raise ValueError(
            f"the detections belong to an image of {width}×{height} pixels, but this one has "
            f"{picture.shape[2]}×{picture.shape[1]}"
        )
    labels = detections.labels.tolist()
    colors = [class_color(label) for label in labels]
    tint(picture, mask_crops(detections), colors, opacity)
    line = max(1, round(min(picture.shape[1:]) / 300))
    names = [class_names[label] for label in labels]
    scores = [f" {score:.2f}" for score in detections.scores.tolist()]
    return draw_boxes(picture, detections.boxes.cpu().flip(0), names[::-1], colors[::-1], line, scores[::-1])


def tint(picture: Tensor, masks: Iterable[MaskCrop], colors: Sequence[Color], opacity: float) -> None:
    """Blends the colours of masks into `picture`. Where masks overlap, the first is seen.

    Args:
        picture: uint8 RGB [3, H, W] on the CPU; it is changed.
        masks: in its pixels.
        colors: one for each mask.
        opacity: 0–1.
    """
    planes = picture.numpy()
    untouched = np.ones(planes.shape[1:], bool)
    values = torch.arange(256, dtype=torch.uint8)[:, None] * (1 - opacity)
    for (x1, y1, mask), color in zip(masks, colors, strict=True):
        window = slice(y1, y1 + mask.shape[0]), slice(x1, x1 + mask.shape[1])
        seen = mask & untouched[window]
        untouched[window] &= ~mask
        blended = (values + torch.tensor(color) * opacity).to(torch.uint8)
        for plane, table in zip(planes, blended.T, strict=True):
            part = plane[window]
            # A table of bytes takes no wider copies, as arithmetic and numpy's indexing do.
            tinted = part[seen].tobytes().translate(table.numpy().tobytes())
            part[seen] = np.frombuffer(tinted, np.uint8)


def draw_boxes(
    picture: Tensor,
    boxes: Tensor,
    names: Sequence[str],
    colors: Sequence[Color],
    line: int = 1,
    endings: Sequence[str] | None = None,
) -> Tensor:
    """Draws boxes and their captions onto a copy of `picture`. Those of the last box are on top.

    Captions of ASCII look as torchvision's `draw_bounding_boxes` draws them; others are drawn in GNU Unifont.

    Args:
        picture: uint8 RGB [3, H, W] on the CPU.
        boxes: [N, 4] xyxy in its pixels. Parts outside the picture are not drawn.
        names: of each box.
        colors: of each box and of the ground of its caption.
        line: the width of the boxes' lines in pixels.
        endings: the rest of each caption, right of the name whatever the direction of its text is.

    Returns:
        uint8 RGB [3, H, W].
    """
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default()
    corners = boxes.to(torch.int64).tolist()
    for corner, name, color, ending in zip(corners, names, colors, endings or [""] * len(names), strict=True):
        canvas.rectangle(corner, outline=color, width=line)
        x, y = corner[0] + line + 1, corner[1] + line + 1
        if (name + ending).isascii():
            left, top, right, bottom = canvas.textbbox((x, y), name + ending, font)
            canvas.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=color)
            canvas.text((x, y), name + ending, "black", font)
        else:
            ink = Image.fromarray(text_pixels(name, ending))
            canvas.rectangle((x - 1, y - 1, x + ink.width, y + ink.height), fill=color)
            canvas.bitmap((x, y), ink, "black")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
