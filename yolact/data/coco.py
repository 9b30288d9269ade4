"""Data sets with COCO-format instance annotations."""

import os
from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from yolact.data.annotations import ImageEntry, ObjectEntry, Track, no_track, read_annotations
from yolact.data.images import ImageError, Reading
from yolact.data.targets import CROWD


class Sample(TypedDict):
    """An image of H × W pixels and its N objects: a dict that torchvision.transforms.v2 can transform.

    image: [3, H, W] uint8 RGB.
    boxes: [N, 4] float32 xyxy in pixels, within the image.
    masks: [N, H, W] uint8, 0 or 1.
    labels: [N] int64, class from 0, or -1 for a crowd. Crowds come last.
    image_id: the `id` of its `yolact.data.annotations.ImageEntry`.
    path: of the image file.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    masks: tv_tensors.Mask
    labels: Tensor
    image_id: int
    path: str


class CocoDataset(Dataset[Sample]):
    """The images of an annotation file, including those without objects.

    Attributes:
        annotations: the file in normalised form. Its problems say what was left out.
        class_names: by label.
        num_classes: how many classes there are.

    Args:
        annotations: COCO-format JSON file.
        images: the folder that its file names are relative to.
        transform: applied to each sample.
        reading: how pictures are read.
        track: shows progress over an iterable; it also takes a description and the length.

    Raises:
        DataError: if the annotations cannot be used, or the folder holds none of the images.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        transform: Callable[[Sample], Sample] | None = None,
        reading: Reading | None = None,
        track: Track = no_track,
    ):
        self.annotations = read_annotations(annotations, images, reading, track=track)
        self.transform = transform
        self.class_names: list[str] = [category.name for category in self.annotations.categories]
        self._objects = self.annotations.objects_of()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, index: int) -> Sample:
        """The transformed sample.

        Raises:
            ImageError: if the image is missing, cannot be read or has another size than annotated.
        """
        entry = self.annotations.images[index]
        image = self.annotations.reading.read(entry.path).permute(2, 0, 1)
        if image.shape[1:] != (entry.height, entry.width):
            raise ImageError(
                f"{entry.path}: the image has {image.shape[2]}×{image.shape[1]} pixels, but its annotations are for "
                f"{entry.width}×{entry.height}: correct width and height, or export the annotations again"
            )
        boxes, masks, labels = _tensors(entry, self.objects_of(index))
        sample = Sample(
            image=tv_tensors.Image(image),
            boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(entry.height, entry.width)),
            masks=tv_tensors.Mask(masks),
            labels=labels,
            image_id=entry.id,
            path=str(entry.path),
        )
        return sample if self.transform is None else self.transform(sample)

    def objects_of(self, index: int) -> list[ObjectEntry]:
        """The objects and crowds of a sample, as annotated."""
        return self._objects[self.annotations.images[index].id]


def _tensors(image: ImageEntry, objects: list[ObjectEntry]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4], masks [N, H, W] and labels [N] of an image."""
    height, width = image.height, image.width
    ordered = sorted(objects, key=lambda entry: entry.crowd)
    encoded = [{"size": [height, width], "counts": entry.counts} for entry in ordered]
    boxes = torch.tensor([entry.bbox for entry in ordered], dtype=torch.float64).view(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    # pycocotools decodes in column order. The permuted view keeps its strides, as later steps need no contiguous masks.
    masks = rle.decode(encoded) if encoded else np.zeros((height, width, 0), np.uint8)
    return (
        boxes.float(),
        torch.from_numpy(masks).permute(2, 0, 1),
        torch.tensor([CROWD if entry.crowd else entry.label for entry in ordered], dtype=torch.int64),
    )
