"""Draws a contact sheet of annotated samples."""

import random
from contextlib import suppress
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.utils import make_grid

from yolact.data.coco import CocoDataset, EncodedSample
from yolact.data.images import ImageError
from yolact.data.targets import CROWD
from yolact.visualize import class_color, draw_boxes, tint

CROWD_COLOR = (128, 128, 128)
TITLE_COLOR = (255, 255, 0)


def contact_sheet(
    dataset: CocoDataset, rows: int = 4, columns: int = 4, side: int = 320, both_ways: frozenset[int] = frozenset()
) -> Tensor:
    """A grid of random samples with masks, boxes and names, uint8 RGB [3, H, W]. It is the same in every call.

    Args:
        dataset: its transform is not used. Images with objects come first. Images that cannot be read are skipped.
        rows, columns: of the grid.
        side: of a sample in the grid, in pixels.
        both_ways: ids of images that come before all others. Each is shown twice: as the data set reads it, and with
            its EXIF orientation treated the other way.
    """
    order = list(range(len(dataset)))
    random.Random(0).shuffle(order)
    images = dataset.annotations.images
    order.sort(key=lambda index: (images[index].id not in both_ways, not dataset.objects_of(index)))
    ways = [dataset, other_way(dataset)]
    cells: list[Tensor] = []
    for index in order:
        if len(cells) >= rows * columns:
            break
        twice = images[index].id in both_ways
        for way in ways if twice else ways[:1]:
            with suppress(ImageError):
                cells.append(_cell(way.encoded(index), dataset.class_names, side, _title(way) if twice else ""))
    if not cells:
        return torch.full((3, side, side), 255, dtype=torch.uint8)
    return make_grid(cells[: rows * columns], nrow=columns, padding=4, pad_value=255)


def other_way(dataset: CocoDataset) -> CocoDataset:
    """A copy of `dataset` that applies EXIF orientations if `dataset` ignores them, and the reverse."""
    other = copy(dataset)
    reading = replace(dataset.annotations.reading, ignore_exif=not dataset.annotations.reading.ignore_exif)
    other.annotations = replace(dataset.annotations, reading=reading)
    return other


def _title(dataset: CocoDataset) -> str:
    return "as stored (--ignore-exif)" if dataset.annotations.reading.ignore_exif else "turned as EXIF says"


def _cell(sample: EncodedSample, class_names: list[str], side: int, title: str) -> Tensor:
    picture = draw_sample(v2.Resize(size=None, max_size=side)(sample), class_names)
    cell = torch.full((3, side, side), 255, dtype=torch.uint8)
    cell[:, : picture.shape[1], : picture.shape[2]] = picture
    if title:
        frame = torch.tensor([[0, 0, side - 1, side - 1]])
        cell = draw_boxes(cell, frame, [title], [TITLE_COLOR])
    return cell


def draw_sample(sample: EncodedSample, class_names: list[str]) -> Tensor:
    """The image with its objects drawn onto it, uint8 RGB [3, H, W]. Crowds are grey.

    Args:
        sample: its image and boxes may have another size than its run lengths.
        class_names: by label.
    """
    picture = sample["image"].as_subclass(Tensor).clone(memory_format=torch.contiguous_format)
    labels = sample["labels"].tolist()
    if not labels:
        return picture
    colors = [CROWD_COLOR if label == CROWD else class_color(label) for label in labels]
    names = ["crowd" if label == CROWD else class_names[label] for label in labels]
    height, width = picture.shape[1:]
    tint(picture, sample["masks"].resized(height, width), colors, 0.5)
    return draw_boxes(picture, sample["boxes"].as_subclass(Tensor), names, colors)
