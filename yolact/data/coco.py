"""Data sets with COCO-format instance annotations."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from yolact.data.annotations import DataError, Severity, read_annotations, structural_problems, to_rle
from yolact.data.images import ImageError, read_image
from yolact.data.targets import CROWD

_PREFIXES_2014 = ("COCO_train2014_", "COCO_val2014_", "COCO_test2014_", "COCO_test2015_")


class Sample(TypedDict):
    """An image of H × W pixels and its N objects, a dict as torchvision.transforms.v2 walks it.

    image: [3, H, W] uint8 RGB.
    boxes: [N, 4] float32 xyxy in pixels, within the image.
    masks: [N, H, W] uint8, 0 or 1.
    labels: [N] int64, class from 0; -1 for a crowd; crowds come last.
    image_id: COCO's.
    path: of the image file.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    masks: tv_tensors.Mask
    labels: Tensor
    image_id: int
    path: str


class CocoDataset(Dataset[Sample]):
    """The images of an annotation file, those without objects included.

    Objects whose mask has no pixel, or whose box has no extent within the image, are left out.

    Attributes:
        class_names: one a label, by rising category id.
        category_ids: COCO's, one a label.
        num_classes: how many these are.
        image_ids: COCO's, in the order of the samples.
        coco: pycocotools' view of the annotations.

    Args:
        annotations: COCO-format JSON file.
        images: the folder that its file names are relative to.
        transform: applied to each sample.

    Raises:
        DataError: if the annotations cannot be used, or the folder is not that of the images.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        transform: Callable[[Sample], Sample] | None = None,
    ):
        content = read_annotations(annotations)
        for problem in structural_problems(content):
            if problem.severity is Severity.FATAL:
                raise DataError(f"{annotations}: {problem.text}; `yolact data check` lists all such problems")
        self.images = Path(images)
        self.transform = transform
        self.coco = index_annotations(content)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.class_names: list[str] = [category["name"] for category in categories]
        self.category_ids: list[int] = [category["id"] for category in categories]
        self.image_ids: list[int] = [image["id"] for image in content["images"]]
        self._label_of = {category_id: label for label, category_id in enumerate(self.category_ids)}
        require_images(self.images, [image["file_name"] for image in content["images"][:20]])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        """The sample, transformed.

        Raises:
            ImageError: if the image is missing, cannot be read or is of another size than annotated.
            DataError: if one of its masks cannot be used.
        """
        entry = self.coco.imgs[self.image_ids[index]]
        height, width = entry["height"], entry["width"]
        path = find_image(self.images, entry["file_name"])
        image = read_image(path).permute(2, 0, 1)
        if image.shape[1:] != (height, width):
            raise ImageError(
                f"{path}: the image has {image.shape[2]}×{image.shape[1]} pixels, but its annotations are for "
                f"{width}×{height}: correct width and height, or export the annotations anew"
            )
        boxes, masks, labels = self._objects(entry["id"], height, width)
        sample = Sample(
            image=tv_tensors.Image(image),
            boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            masks=tv_tensors.Mask(masks),
            labels=labels,
            image_id=entry["id"],
            path=str(path),
        )
        return sample if self.transform is None else self.transform(sample)

    def _objects(self, image_id: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [N, 4], masks [N, H, W] and labels [N] of an image."""
        encoded, boxes, labels = [], [], []
        for annotation in sorted(self.coco.imgToAnns[image_id], key=lambda annotation: annotation["iscrowd"]):
            mask = _mask_of(annotation, height, width)
            x, y, box_width, box_height = annotation["bbox"]
            x1, y1 = max(x, 0.0), max(y, 0.0)
            x2, y2 = min(x + box_width, width), min(y + box_height, height)
            if x2 <= x1 or y2 <= y1 or rle.area(mask) == 0:
                continue
            encoded.append(mask)
            boxes.append((x1, y1, x2, y2))
            labels.append(CROWD if annotation["iscrowd"] else self._label_of[annotation["category_id"]])
        # Decoding is column by column: the strides tell so, and what reads the masks later need not be contiguous.
        masks = rle.decode(encoded) if encoded else np.zeros((height, width, 0), np.uint8)
        return (
            torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            torch.from_numpy(masks).permute(2, 0, 1),
            torch.tensor(labels, dtype=torch.int64),
        )


def _mask_of(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    try:
        return to_rle(annotation["segmentation"], height, width)
    except DataError as error:
        raise DataError(f"annotation {annotation['id']} of image {annotation['image_id']}: {error}") from None


def index_annotations(content: dict[str, Any]) -> COCO:
    """pycocotools' view of the content of an annotation file, made without a word on standard output.

    Fills in, in `content`, the `bbox`, `area` and `iscrowd` that an annotation lacks, as COCOeval needs them.

    Raises:
        DataError: if a mask from which they are to be taken cannot be used.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        if annotation.get("bbox") is None or annotation.get("area") is None:
            mask = _mask_of(annotation, *sizes[annotation["image_id"]])
            annotation["bbox"] = annotation.get("bbox") or rle.toBbox(mask).tolist()
            annotation["area"] = annotation.get("area") or float(rle.area(mask))
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def find_image(folder: Path, file_name: str) -> Path:
    """The file of an image, also where the annotations name it as COCO 2014 does and the files are of 2017, or
    the other way round, or where they name folders that are not there. `folder / file_name` if there is none.
    """
    path = folder / file_name
    if path.is_file():
        return path
    name = Path(file_name).name
    number = re.sub(r"^COCO_[a-z]+\d{4}_", "", name)
    for candidate in (name, number, *(prefix + number for prefix in _PREFIXES_2014)):
        if (folder / candidate).is_file():
            return folder / candidate
    return path


def require_images(folder: Path, file_names: list[str]) -> None:
    """Raises DataError unless `folder` is a folder that holds at least one of `file_names`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of images")
    if not any(find_image(folder, name).is_file() for name in file_names):
        raise DataError(
            f"{folder}: none of the first {len(file_names)} images of the annotations is there, not even "
            f"{file_names[0]}: give the folder that these names are relative to"
        )
