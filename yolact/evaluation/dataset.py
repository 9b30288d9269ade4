"""What is evaluated: the images of an annotation file, with or without ground truth."""

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as rle
from pycocotools.coco import COCO
from torch import Tensor

from yolact.data.annotations import read_annotations, to_rle
from yolact.data.coco import CocoDataset, find_image, index_annotations, require_images
from yolact.data.images import read_image

_READ_AHEAD = 4  # images


@dataclass(frozen=True)
class EvaluationSet:
    """Images to segment and, if there is any, the truth about them.

    Attributes:
        image_ids: COCO's.
        paths: one for each image.
        class_names, category_ids: by rising category id.
        truth: pycocotools' view of the annotations; None if there are none, as for COCO's test images.
    """

    image_ids: tuple[int, ...]
    paths: tuple[Path, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    truth: COCO | None

    @classmethod
    def read(cls, annotations: str | os.PathLike[str], images: str | os.PathLike[str]) -> "EvaluationSet":
        """The images of an annotation file.

        Args:
            annotations: COCO-format JSON; without a list of annotations there is no ground truth.
            images: the folder that its file names are relative to.

        Raises:
            DataError: if the file or the folder cannot be used.
        """
        content = _read(annotations)
        folder = Path(images)
        require_images(folder, [image["file_name"] for image in content["images"][:20]])
        categories = sorted(content["categories"], key=lambda category: category["id"])
        return cls(
            tuple(image["id"] for image in content["images"]),
            tuple(find_image(folder, image["file_name"]) for image in content["images"]),
            tuple(category["name"] for category in categories),
            tuple(category["id"] for category in categories),
            _complete(index_annotations(content)) if content["annotations"] else None,
        )

    @classmethod
    def of(cls, dataset: CocoDataset) -> "EvaluationSet":
        """The images of a data set; its transform is not used."""
        files = (dataset.coco.imgs[image_id]["file_name"] for image_id in dataset.image_ids)
        return cls(
            tuple(dataset.image_ids),
            tuple(find_image(dataset.images, name) for name in files),
            tuple(dataset.class_names),
            tuple(dataset.category_ids),
            _complete(dataset.coco),
        )

    def require_truth(self) -> COCO:
        """`truth`.

        Raises:
            ValueError: if there is none.
        """
        if self.truth is None:
            raise ValueError("there is no ground truth to compare with: the annotation file has no annotations")
        return self.truth

    def part(self, chosen: slice) -> "EvaluationSet":
        """Some of the images, with all of the truth."""
        return EvaluationSet(
            self.image_ids[chosen], self.paths[chosen], self.class_names, self.category_ids, self.truth
        )

    def read_images(self) -> Iterator[tuple[int, Tensor]]:
        """(id, image as `read_image` gives it) of each image; a few images are read ahead.

        Raises:
            ImageError: if an image cannot be read.
        """
        with ThreadPoolExecutor(max_workers=2) as pool:
            waiting = deque(pool.submit(read_image, path) for path in self.paths[:_READ_AHEAD])
            for number, image_id in enumerate(self.image_ids):
                image = waiting.popleft().result()
                if number + _READ_AHEAD < len(self.paths):
                    waiting.append(pool.submit(read_image, self.paths[number + _READ_AHEAD]))
                yield image_id, image

    def categories_of(self, class_names: Sequence[str]) -> list[int | None]:
        """The category id of each class of a model: that of the same name, or None if there is no such category.

        Classes without names of their own ("class 1", …) are the categories in order.

        Raises:
            ValueError: if no class is a category.
        """
        ids = dict(zip(self.class_names, self.category_ids, strict=True))
        categories = [ids.get(name) for name in class_names]
        if any(category is not None for category in categories):
            return categories
        unnamed = all(name == f"class {number}" for number, name in enumerate(class_names, start=1))
        if unnamed and len(class_names) == len(self.category_ids):
            return list(self.category_ids)
        raise ValueError(
            f"none of the model's classes ({', '.join(class_names[:5])}, …) is a category of the annotations "
            f"({', '.join(self.class_names[:5])}, …): this model is for another data set"
        )


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of an annotation file; the annotations may be missing in it."""
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        content = None
    if isinstance(content, dict) and "annotations" not in content and content.get("images"):
        return {"categories": [], **content, "annotations": []}
    return read_annotations(path)


def _complete(truth: COCO) -> COCO:
    """`truth` with the fields that pycocotools' evaluation needs and that some tools leave out."""
    for annotation in truth.anns.values():
        annotation.setdefault("iscrowd", 0)
        if not annotation.get("area") or not annotation.get("bbox"):
            image = truth.imgs[annotation["image_id"]]
            mask = to_rle(annotation["segmentation"], image["height"], image["width"])
            annotation["area"] = annotation.get("area") or float(rle.area(mask))
            annotation["bbox"] = annotation.get("bbox") or rle.toBbox(mask).tolist()
    return truth
