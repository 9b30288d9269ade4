"""What is evaluated: the images of an annotation file, with or without ground truth."""

import contextlib
import io
import os
from collections import deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pycocotools.coco import COCO
from torch import Tensor

from yolact.data.annotations import MOST_UNUSABLE, Annotations, FileId, read_annotations
from yolact.data.classes import partners
from yolact.data.coco import CocoDataset
from yolact.data.images import ImageError, Reading
from yolact.data.pictures import picture_problems, read_headers
from yolact.data.problems import DataError, Problem, counted, some_of, summary
from yolact.data.start import require_objects
from yolact.evaluation.results import Results

_READ_AHEAD = 4  # images


@dataclass(frozen=True)
class EvaluationSet:
    """Images to segment and, if there is any, the truth about them.

    Attributes:
        image_ids: of `yolact.data.annotations.ImageEntry`.
        paths: one for each image.
        class_names, category_ids: by label.
        truth: pycocotools' view of the annotations that can be used; None if there are none, as for COCO's test
            images.
        reading: how the pictures are read.
        notes: what to know about the data, a line each.
        file_ids: for results files, what the annotation file calls an image or category, where that is not its id.
    """

    image_ids: tuple[int, ...]
    paths: tuple[Path, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    truth: COCO | None
    reading: Reading = field(default_factory=Reading)
    notes: tuple[str, ...] = ()
    file_ids: tuple[dict[int, FileId], dict[int, FileId]] = field(default_factory=lambda: ({}, {}))

    @classmethod
    def read(
        cls,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        reading: Reading | None = None,
    ) -> "EvaluationSet":
        """The images of an annotation file.

        Args:
            annotations: COCO-format JSON; without a list of annotations there is no ground truth.
            images: the folder that its file names are relative to.
            reading: how the pictures are read.

        Raises:
            DataError: as `of_annotations`, or if the file or the folder cannot be used.
        """
        return cls.of_annotations(read_annotations(annotations, images, reading, need_annotations=False))

    @classmethod
    def of(cls, dataset: CocoDataset) -> "EvaluationSet":
        """The images of a data set; its transform is not used.

        Raises:
            DataError: as `of_annotations`, or if there are no annotations.
        """
        require_objects(dataset.annotations, "compare with")
        return cls.of_annotations(dataset.annotations)

    @classmethod
    def of_annotations(cls, annotations: Annotations) -> "EvaluationSet":
        """The images of an annotation file in normalised form. Pictures that cannot be read are left out.

        Raises:
            DataError: if none of the annotations is an object, a picture is of another size than annotated, or too
                many cannot be read.
        """
        if annotations.annotated:
            require_objects(annotations, "compare with")
        headers = read_headers(annotations, annotations.images)
        problems = picture_problems(annotations, annotations.images, headers)
        _refuse_wrong_sizes(annotations, problems)
        images = [image for image in annotations.images if not isinstance(headers[image.id], ImageError)]
        broken = len(annotations.images) - len(images)
        if not images or (broken > 1 and broken > MOST_UNUSABLE * len(annotations.images)):
            example = next(problem.text for problem in problems if problem.kind == "broken picture")
            raise DataError(
                f"{annotations.path}: {broken} of {counted(len(annotations.images), 'picture')} cannot be read, for "
                f"example {example}"
            )
        return cls(
            tuple(image.id for image in images),
            tuple(image.path for image in images),
            tuple(category.name for category in annotations.categories),
            tuple(category.id for category in annotations.categories),
            _truth(annotations) if annotations.annotated else None,
            annotations.reading,
            (*annotations.summary(), *(f"{annotations.path}: {line}" for line in summary(problems))),
            (
                {image.id: image.file_id for image in images if image.file_id != image.id},
                {entry.id: entry.file_id for entry in annotations.categories if entry.file_id != entry.id},
            ),
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
        return replace(self, image_ids=self.image_ids[chosen], paths=self.paths[chosen])

    def without(self, left_out: Container[int]) -> "EvaluationSet":
        """The images but those of some ids, with all of the truth."""
        kept = [pair for pair in zip(self.image_ids, self.paths, strict=True) if pair[0] not in left_out]
        return replace(self, image_ids=tuple(image for image, _ in kept), paths=tuple(path for _, path in kept))

    def read_images(self) -> Iterator[tuple[int, Tensor | ImageError]]:
        """(id, image as `read_image` gives it, or why it cannot be read) one after the other, read a little ahead."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            waiting = deque(pool.submit(self._read, path) for path in self.paths[:_READ_AHEAD])
            for number, image_id in enumerate(self.image_ids):
                image = waiting.popleft().result()
                if number + _READ_AHEAD < len(self.paths):
                    waiting.append(pool.submit(self._read, self.paths[number + _READ_AHEAD]))
                yield image_id, image

    def _read(self, path: Path) -> Tensor | ImageError:
        try:
            return self.reading.read(path)
        except ImageError as error:
            return error

    def categories_of(self, class_names: Sequence[str]) -> list[int | None]:
        """The category id of each class of a model: that of the same name, or None where there is no such category.

        Names that differ in case, blanks, hyphens and underscores alone are the same. Classes without names of their
        own ("class 1", …) count as the categories in order.

        Raises:
            ValueError: if no class is a category.
        """
        ids = dict(zip(self.class_names, self.category_ids, strict=True))
        known = partners(class_names, self.class_names)
        if known:
            return [ids[known[name]] if name in known else None for name in class_names]
        if _unnamed(class_names) and len(class_names) == len(self.category_ids):
            return list(self.category_ids)
        raise ValueError(
            f"none of the model's classes ({some_of(class_names, 5)}) is a category of the annotations "
            f"({some_of(self.class_names, 5)}): this model is for another data set"
        )

    def class_notes(self, class_names: Sequence[str]) -> list[str]:
        """What to know about the classes of a model and of the data, a line each.

        Raises:
            ValueError: if no class is a category.
        """
        self.categories_of(class_names)
        known = partners(class_names, self.class_names)
        if not known:
            return ["note: the model's classes have no names: they count as the data's classes in order"]
        notes = []
        if differing := [f"{name} = {other}" for name, other in known.items() if name != other]:
            notes.append(
                f"note: model and data write {counted(len(differing), 'class', 'classes')} differently: "
                f"{some_of(differing)}"
            )
        if surplus := [name for name in class_names if name not in known]:
            notes.append(
                f"note: {counted(len(surplus), 'class', 'classes')} of the model that the data lack, left out of the "
                f"results: {some_of(surplus)}"
            )
        if missing := [name for name in self.class_names if name not in known.values()]:
            notes.append(
                f"warning: {counted(len(missing), 'class', 'classes')} of the data that the model lacks and cannot "
                f"find: {some_of(missing)}"
            )
        return notes

    def write_results(self, results: Results, path: str | os.PathLike[str]) -> None:
        """Writes COCO results with the ids that the annotation file has.

        Raises:
            OSError: if that cannot be done.
        """
        images, categories = self.file_ids
        if not images and not categories:
            results.write(path)
            return
        renamed = Results()
        for image_id in self.image_ids:
            renamed.add(
                [
                    {
                        **entry,
                        "image_id": images.get(image_id, image_id),
                        "category_id": categories.get(entry["category_id"], entry["category_id"]),
                    }
                    for entry in results.of_image(image_id)
                ]
            )
        renamed.write(path)


def _unnamed(class_names: Sequence[str]) -> bool:
    return all(name == f"class {number}" for number, name in enumerate(class_names, start=1))


def _refuse_wrong_sizes(annotations: Annotations, problems: Sequence[Problem]) -> None:
    wrong = [problem for problem in problems if problem.kind == "size contradicts the picture"]
    if wrong:
        verb = "has" if len(wrong) == 1 else "have"
        number = f"{len(wrong)} of {counted(len(annotations.images), 'picture')} {verb} another size than annotated"
        raise DataError(f"{annotations.path}: {number}: {wrong[0].text}")


def _truth(annotations: Annotations) -> COCO:
    """pycocotools' view of the objects, numbered from 1, with their guarded masks; it prints nothing."""
    images = {image.id: image for image in annotations.images}
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [
            {"id": image.id, "file_name": image.name, "width": image.width, "height": image.height}
            for image in annotations.images
        ],
        "categories": [{"id": category.id, "name": category.name} for category in annotations.categories],
        "annotations": [
            {
                "id": number,
                "image_id": entry.image_id,
                "category_id": annotations.categories[entry.label].id,
                "iscrowd": int(entry.crowd),
                "bbox": list(entry.bbox),
                "area": entry.area,
                "segmentation": {
                    "size": [images[entry.image_id].height, images[entry.image_id].width],
                    "counts": entry.counts,
                },
            }
            for number, entry in enumerate(annotations.objects, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth
