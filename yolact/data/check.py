"""What is in a data set, and what is wrong with it."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from pycocotools import mask as rle

from yolact.data.annotations import (
    DataError,
    Problem,
    Severity,
    bad_box,
    bad_segmentation,
    is_integer,
    read_annotations,
    structural_problems,
    to_rle,
)
from yolact.data.coco import find_image, require_images
from yolact.data.images import IMAGE_SUFFIXES, ImageError, read_image

SMALL, LARGE = 32**2, 96**2  # pixels of a mask, as COCO counts sizes
EXIF_ORIENTATION = 0x0112


@dataclass
class ClassCount:
    """Objects of a class, crowds apart."""

    name: str
    images: int = 0
    small: int = 0  # up to 32² pixels
    medium: int = 0
    large: int = 0  # from 96² pixels on
    crowds: int = 0

    @property
    def objects(self) -> int:
        return self.small + self.medium + self.large


@dataclass
class Report:
    """Findings about a data set."""

    images: int
    empty_images: int  # without objects and crowds
    unlisted_files: int  # images of the folder that the annotations do not name
    classes: list[ClassCount]  # by label
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(problem.severity >= Severity.ERROR for problem in self.problems)

    @property
    def usable(self) -> bool:
        """Whether the loader takes the annotations."""
        return all(problem.severity < Severity.FATAL for problem in self.problems)


class _File(NamedTuple):
    path: Path
    size: tuple[int, int] | None  # width, height; None if it cannot be read
    reason: str
    digest: bytes  # of its content; empty if only the header was read


def check(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    headers_only: bool = False,
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, description, total: items,
) -> Report:
    """Reads a whole data set, images and masks.

    Args:
        annotations: COCO-format JSON file.
        images: the folder that its file names are relative to.
        headers_only: read no pixels of the images: faster, but broken and duplicate files go unnoticed.
        track: shows progress over an iterable, of a description and a length.

    Raises:
        DataError: if the annotations cannot be read at all, or the folder holds none of the images.
    """
    content, folder = read_annotations(annotations), Path(images)
    entries = [image for image in content["images"] if isinstance(image.get("file_name"), str)]
    if entries:
        require_images(folder, [image["file_name"] for image in entries[:20]])
    problems = list(structural_problems(content))
    problems += _file_problems(entries, folder, headers_only, track)
    classes, found = _objects(content, track)
    problems += found
    used = {str(annotation.get("image_id")) for annotation in content["annotations"]}
    listed = {find_image(folder, image["file_name"]).name for image in entries}
    return Report(
        images=len(content["images"]),
        empty_images=sum(str(image.get("id")) not in used for image in content["images"]),
        unlisted_files=sum(
            path.suffix.lower() in IMAGE_SUFFIXES and path.name not in listed for path in folder.iterdir()
        ),
        classes=classes,
        problems=problems,
    )


def _file_problems(
    entries: list[dict[str, Any]], folder: Path, headers_only: bool, track: Callable[..., Iterable[Any]]
) -> list[Problem]:
    problems: list[Problem] = []
    first_with: dict[bytes, Path] = {}
    inspect = partial(_inspect, folder, headers_only)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = pool.map(inspect, [image["file_name"] for image in entries])
        for image, file in zip(entries, track(files, "Reading images", len(entries)), strict=True):
            if file.size is None:
                problems.append(Problem("missing or broken image", file.reason))
                continue
            expected = (image.get("width"), image.get("height"))
            if file.size != expected:
                turned = ": is it meant without its EXIF orientation?" if file.size == expected[::-1] else ""
                text = f"{file.path}: {file.size[0]}×{file.size[1]}, annotated as {expected[0]}×{expected[1]}{turned}"
                problems.append(Problem("size mismatch", text))
            twin = first_with.setdefault(file.digest, file.path) if file.digest else file.path
            if twin != file.path:
                text = f"{file.path}: has the same content as {twin}"
                problems.append(Problem("duplicate image", text, Severity.WARNING))
    return problems


def _inspect(folder: Path, headers_only: bool, file_name: str) -> _File:
    path = find_image(folder, file_name)
    try:
        if not headers_only:
            height, width, _ = read_image(path).shape
            return _File(path, (width, height), "", hashlib.blake2b(path.read_bytes(), digest_size=16).digest())
        with Image.open(path) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return _File(path, image.size[::-1] if turned else image.size, "", b"")
    except ImageError as error:
        return _File(path, None, str(error), b"")
    except OSError as error:
        return _File(path, None, f"{path}: {error}", b"")


def _objects(content: dict[str, Any], track: Callable[..., Iterable[Any]]) -> tuple[list[ClassCount], list[Problem]]:
    """Counts by class and what is wrong with boxes and masks. What is wrong in structure is passed over."""
    sizes = {
        image["id"]: (image["height"], image["width"])
        for image in content["images"]
        if all(is_integer(image.get(key)) for key in ("id", "height", "width"))
        and min(image["height"], image["width"]) > 0
    }
    named = [category for category in content["categories"] if is_integer(category.get("id"))]
    counts = {entry["id"]: ClassCount(str(entry.get("name"))) for entry in sorted(named, key=lambda entry: entry["id"])}
    problems: list[Problem] = []
    classes_of: dict[tuple[int, bytes], set[int]] = defaultdict(set)  # of each image and mask
    images_of: dict[int, set[int]] = defaultdict(set)
    annotations = content["annotations"]
    for index, annotation in enumerate(track(annotations, "Reading masks", len(annotations))):
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not is_integer(image_id) or image_id not in sizes or bad_segmentation(annotation):
            continue
        where = f"annotations[{index}] (id {annotation.get('id')}, image {image_id})"
        try:
            mask = to_rle(annotation["segmentation"], *sizes[image_id])
        except DataError as error:
            problems.append(Problem("bad segmentation", f"{where}: {error}"))
            continue
        problems += _object_problems(where, annotation, mask, *sizes[image_id])
        if not is_integer(category_id) or category_id not in counts:
            continue
        area, classes = int(rle.area(mask)), classes_of[image_id, mask["counts"]]
        if area > 0 and category_id in classes:
            text = f"{where}: the image has this very mask with this class before"
            problems.append(Problem("duplicate object", text))
        elif area > 0 and classes:
            text = f"{where}: the image has this very mask with another class before"
            problems.append(Problem("object of two classes", text, Severity.WARNING))
        classes.add(category_id)
        images_of[category_id].add(image_id)
        size = (
            "crowds"
            if annotation.get("iscrowd")
            else "small"
            if area < SMALL
            else "medium"
            if area < LARGE
            else "large"
        )
        setattr(counts[category_id], size, getattr(counts[category_id], size) + 1)
    for category_id, count in counts.items():
        count.images = len(images_of[category_id])
        if count.objects == 0:
            text = f"{count.name} (category {category_id}) has no object: it cannot be learnt"
            problems.append(Problem("unused class", text, Severity.WARNING))
    return list(counts.values()), problems


def _object_problems(
    where: str, annotation: dict[str, Any], mask: dict[str, Any], height: int, width: int
) -> Iterator[Problem]:
    """What is wrong with one object's mask and box."""
    empty = rle.area(mask) == 0
    if empty:
        yield Problem("empty mask", f"{where}: no pixel of the image is in it")
    polygons, box = annotation["segmentation"], annotation.get("bbox")
    if isinstance(polygons, list) and any(len(polygon) < 6 for polygon in polygons):
        text = f"{where}: a polygon has fewer than three points and counts for nothing"
        yield Problem("degenerate polygon", text, Severity.WARNING)
    if box is None or bad_box(box):
        return
    x, y, box_width, box_height = box
    if box_width <= 0 or box_height <= 0:
        yield Problem("empty box", f"{where}: bbox {box} has no extent: it must be [x, y, width, height]")
    elif min(x, y) < -1 or x + box_width > width + 1 or y + box_height > height + 1:
        yield Problem("box outside the image", f"{where}: bbox {box} reaches out of {width}×{height} pixels")
    elif not empty:
        left, top, mask_width, mask_height = rle.toBbox(mask).tolist()
        sides = (x - left, y - top, x + box_width - left - mask_width, y + box_height - top - mask_height)
        # Annotation tools round in their own ways, and thin parts may fall between the pixels.
        if max(map(abs, sides)) > max(2.0, 0.1 * max(box_width, box_height)):
            text = f"{where}: bbox {box}, but its mask's is {[left, top, mask_width, mask_height]}"
            yield Problem("box contradicts mask", f"{text}: is it [x, y, width, height] in pixels?")
