"""A contact sheet of annotated samples."""

import random

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from yolact.data.batch import BrokenSample, Tolerant
from yolact.data.coco import CocoDataset, Sample
from yolact.data.targets import CROWD
from yolact.visualize import class_color

CROWD_COLOR = (128, 128, 128)


def contact_sheet(dataset: CocoDataset, rows: int = 4, columns: int = 4, side: int = 320) -> Tensor:
    """A grid of random samples, always the same, with masks, boxes and names; uint8 RGB [3, H, W].

    Args:
        dataset: without a transform. Images with objects go first, those that cannot be read are passed over.
        rows, columns: of the grid.
        side: of a sample in the grid, pixels.
    """
    order = list(range(len(dataset)))
    random.Random(0).shuffle(order)
    order.sort(key=lambda index: not dataset.coco.imgToAnns[dataset.image_ids[index]])
    samples: Dataset[Sample | BrokenSample] = Tolerant(dataset)
    shrink = v2.Resize(size=None, max_size=side)
    cells: list[Tensor] = []
    for index in order:
        if len(cells) == rows * columns:
            break
        sample = samples[index]
        if not isinstance(sample, BrokenSample):
            picture = draw_sample(shrink(sample), dataset.class_names)
            cell = torch.full((3, side, side), 255, dtype=torch.uint8)
            cell[:, : picture.shape[1], : picture.shape[2]] = picture
            cells.append(cell)
    if not cells:
        return torch.full((3, side, side), 255, dtype=torch.uint8)
    return make_grid(cells, nrow=columns, padding=4, pad_value=255)


def draw_sample(sample: Sample, class_names: list[str]) -> Tensor:
    """The image with its objects drawn onto it, crowds in grey; uint8 RGB [3, H, W]."""
    picture = sample["image"].as_subclass(Tensor).contiguous()
    labels = sample["labels"].tolist()
    if not labels:
        return picture
    colors = [CROWD_COLOR if label == CROWD else class_color(label) for label in labels]
    names = ["crowd" if label == CROWD else class_names[label] for label in labels]
    masks, boxes = sample["masks"].as_subclass(Tensor).bool(), sample["boxes"].as_subclass(Tensor)
    picture = draw_segmentation_masks(picture, masks, alpha=0.5, colors=colors)
    return draw_bounding_boxes(picture, boxes, names, colors=colors, fill_labels=True)
