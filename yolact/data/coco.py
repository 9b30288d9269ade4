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
from yolact.data.packed import PackedMasks
from yolact.data.targets import CROWD
from yolact.run_lengths import RunLengths


class _Sample(TypedDict):
    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    image_id: int
    path: str


class Sample(_Sample):
    """An image of H × W pixels and its N objects: a dict that torchvision.transforms.v2 can transform.

    image: [3, H, W] uint8 RGB.
    boxes: [N, 4] float32 xyxy in pixels, within the image.
    masks: [N, H, W] uint8, 0 or 1. Those of augmented run lengths are packed.
    labels: [N] int64, class from 0, or -1 for a crowd. Crowds come last.
    image_id: the `id` of its `yolact.data.annotations.ImageEntry`.
    path: of the image file.
    """

    masks: tv_tensors.Mask | PackedMasks


class EncodedSample(_Sample):
    """A `Sample` whose masks are N run lengths. torchvision.transforms.v2 transforms all but these."""

    masks: RunLengths


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
        """The transformed sample. Its masks are uint8.

        Before the transform it takes H·W bytes of memory for each object. Training and `yolact data check` use
        `encoded` instead if there is no transform.

        Raises:
            ImageError: if the image is missing, cannot be read or has another size than annotated.
        """
        encoded = self.encoded(index)
        masks = _decoded(encoded["masks"])
        sample = Sample(
            image=encoded["image"],
            boxes=encoded["boxes"],
            masks=tv_tensors.Mask(masks),
            labels=encoded["labels"],
            image_id=encoded["image_id"],
            path=encoded["path"],
        )
        return sample if self.transform is None else self.transform(sample)

    def encoded(self, index: int) -> EncodedSample:
        """The sample before the transform, with its masks as run lengths.

        Raises:
            ImageError: as `__getitem__`.
        """
        entry = self.annotations.images[index]
        image = self.annotations.reading.read(entry.path).permute(2, 0, 1)
        if image.shape[1:] != (entry.height, entry.width):
            raise ImageError(
                f"{entry.path}: the image has {image.shape[2]}×{image.shape[1]} pixels, but its annotations are for "
                f"{entry.width}×{entry.height}: correct width and height, or export the annotations again"
            )
        ordered = sorted(self.objects_of(index), key=lambda annotated: annotated.crowd)
        return EncodedSample(
            image=tv_tensors.Image(image),
            boxes=tv_tensors.BoundingBoxes(
                _boxes(entry, ordered), format="XYXY", canvas_size=(entry.height, entry.width)
            ),
            masks=RunLengths(tuple(entry.counts for entry in ordered), entry.height, entry.width),
            labels=torch.tensor([CROWD if entry.crowd else entry.label for entry in ordered], dtype=torch.int64),
            image_id=entry.id,
            path=str(entry.path),
        )

    def objects_of(self, index: int) -> list[ObjectEntry]:
        """The objects and crowds of a sample, as annotated."""
        return self._objects[self.annotations.images[index].id]


def _boxes(image: ImageEntry, objects: list[ObjectEntry]) -> Tensor:
    """[N, 4] float32 xyxy in pixels, within the image."""
    boxes = torch.tensor([entry.bbox for entry in objects], dtype=torch.float64).view(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(0, image.width)
    boxes[:, 1::2].clamp_(0, image.height)
    return boxes.float()


def _decoded(masks: RunLengths) -> Tensor:
    """[N, H, W] uint8."""
    # pycocotools decodes in column order. The permuted view keeps its strides, as later steps need no contiguous masks.
    size = [masks.height, masks.width]
    encoded = [{"size": size, "counts": text} for text in masks.texts]
    decoded = rle.decode(encoded) if encoded else np.zeros((*size, 0), np.uint8)
    return torch.from_numpy(decoded).permute(2, 0, 1)
