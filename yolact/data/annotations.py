"""COCO's annotation files: reading them, saying what is wrong with them, and their masks."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

LISTS = ("images", "annotations", "categories")


class DataError(ValueError):
    """Annotations that cannot be used; the message names the file, the entry, its value and the fix."""


class Severity(IntEnum):
    """How bad a problem is."""

    WARNING = 0  # worth a look
    ERROR = 1  # the entry is wrong, and the loader leaves it out
    FATAL = 2  # the loader refuses the file


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set. Problems of one `kind` are of one nature; `text` names the entry and the fix."""

    kind: str
    text: str
    severity: Severity = Severity.ERROR


def read_annotations(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of an annotation file: at least the lists `images`, `annotations` and `categories`, of dicts.

    Raises:
        DataError: if the file is missing, is no JSON or lacks one of those.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such annotation file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: this is a folder: give the JSON file of the annotations") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: this is no JSON ({error}): was the download or the export cut short?") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: must hold an object with the lists {', '.join(LISTS)}, but holds a {type(content).__name__}; "
            "a list is what results of a detector look like, give the ground truth instead"
        )
    for key in LISTS:
        if key not in content:
            raise DataError(f'{path}: has no "{key}", only {sorted(content)}: export it in COCO\'s instance format')
        if not isinstance(content[key], list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f'{path}: "{key}" must be a list of objects')
    if not content["categories"]:
        raise DataError(f'{path}: "categories" is empty: name the classes there, as {{"id": 1, "name": "cat"}}')
    if not content["images"]:
        raise DataError(f'{path}: "images" is empty: there is nothing to learn from')
    return content


def structural_problems(content: dict[str, Any]) -> Iterator[Problem]:
    """What is wrong with annotations without a look at the images or the pixels of the masks.

    Args:
        content: of `read_annotations`.
    """
    yield from _category_problems(content["categories"])
    yield from _image_problems(content["images"])
    image_ids = {image["id"] for image in content["images"] if is_integer(image.get("id"))}
    category_ids = {category["id"] for category in content["categories"] if is_integer(category.get("id"))}
    seen: set[int] = set()
    for index, annotation in enumerate(content["annotations"]):
        where = f"annotations[{index}] (id {annotation.get('id')})"
        number = annotation.get("id")
        if not is_integer(number):
            yield Problem("annotation without id", f'{where}: "id" must be an integer', Severity.FATAL)
            continue
        if number in seen:
            yield Problem("duplicate annotation id", f"{where}: an earlier annotation has this id: number them anew")
        seen.add(number)
        if number == 0:
            text = f"{where}: pycocotools counts an object with id 0 as never found: number from 1"
            yield Problem("annotation id 0", text, Severity.WARNING)
        if not is_integer(annotation.get("image_id")) or annotation["image_id"] not in image_ids:
            text = f'{where}: image_id {annotation.get("image_id")!r} is not in "images": add the image or remove it'
            yield Problem("unknown image", text, Severity.FATAL)
        if not is_integer(annotation.get("category_id")) or annotation["category_id"] not in category_ids:
            text = f'{where}: category_id {annotation.get("category_id")!r} is not in "categories" {_few(category_ids)}'
            yield Problem("unknown category", text, Severity.FATAL)
        if annotation.get("iscrowd", 0) not in (0, 1):
            text = f"{where}: iscrowd must be 0 or 1, got {annotation['iscrowd']!r}"
            yield Problem("bad crowd flag", text, Severity.FATAL)
        reason = bad_segmentation(annotation)
        if reason:
            yield Problem("bad segmentation", f"{where}: {reason}", Severity.FATAL)
        reason = bad_box(annotation.get("bbox"))
        if reason:
            yield Problem("bad box", f"{where}: {reason}", Severity.FATAL)


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A mask of any of COCO's kinds as compressed RLE, as pycocotools takes it.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2, …] in pixels, of which those with fewer than three points
            count for nothing; or a dict with `size` [height, width] and `counts`, a list (uncompressed) or
            text (compressed).
        height, width: of the image in pixels.

    Raises:
        DataError: if it is none of these or does not fit the image.
    """
    if isinstance(segmentation, dict):
        return _checked_rle(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise DataError(f"segmentation must be a list of polygons or an RLE object, got {segmentation!r:.60}")
    polygons = []
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"a polygon must be a list of numbers, got {polygon!r:.60}") from None
        if points.ndim != 1 or len(points) % 2:
            raise DataError(f"a polygon must be a flat list x1, y1, x2, y2, …, got {polygon!r:.60}")
        # Also keeps the rasteriser, whose work grows with an edge's length, from walking to infinity.
        if len(points) and not np.abs(points).max() <= 4 * max(height, width):
            raise DataError(f"a polygon's coordinates lie far outside the image of {width}×{height}: {polygon!r:.60}")
        if len(points) >= 6:
            polygons.append(points.tolist())
    if not polygons:
        return rle.encode(np.zeros((height, width), np.uint8, order="F"))
    return rle.merge(rle.frPyObjects(polygons, height, width))


def _checked_rle(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    # pycocotools trusts the runs of a mask, so what it is given must add up.
    if list(segmentation.get("size", [])) != [height, width]:
        raise DataError(f"segmentation's size is {segmentation.get('size')}, but the image's [{height}, {width}]")
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if not all(is_integer(count) and count >= 0 for count in counts) or sum(counts) != height * width:
            raise DataError(f"segmentation's counts must be integers from 0 that add up to {height}·{width}")
        return rle.frPyObjects(segmentation, height, width)
    if not isinstance(counts, (str, bytes)):
        raise DataError(f"segmentation's counts must be a list or text, got {counts!r:.60}")
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
        total = sum(_runs(text))
    except (UnicodeEncodeError, IndexError, ValueError):
        raise DataError(f"segmentation's counts are no compressed RLE: {counts!r:.60}") from None
    if total != height * width:
        raise DataError(f"segmentation's counts cover {total} pixels, but the image has {height}·{width}")
    return {"size": [height, width], "counts": text}


def _runs(text: bytes) -> list[int]:
    """Lengths of the runs of a compressed RLE: little-endian groups of 5 bits, from the fourth on as differences.

    Raises:
        IndexError, ValueError: if the text is cut short or holds what no RLE does.
    """
    runs: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            bits = text[position] - 48
            if not 0 <= bits < 64:
                raise ValueError("not a character of an RLE")
            value |= (bits & 0x1F) << shift
            position += 1
            shift += 5
            more = bool(bits & 0x20)
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            raise ValueError("a run of negative length")
    return runs


def _category_problems(categories: list[dict[str, Any]]) -> Iterator[Problem]:
    for index, category in enumerate(categories):
        if not is_integer(category.get("id")) or not isinstance(category.get("name"), str):
            text = f'categories[{index}]: must have an integer "id" and a text "name", got {category!r:.80}'
            yield Problem("bad category", text, Severity.FATAL)
    for key, kind, severity in (("id", "id", Severity.FATAL), ("name", "name", Severity.ERROR)):
        for value, count in Counter(str(category.get(key)) for category in categories).items():
            if count > 1:
                yield Problem(f"duplicate category {kind}", f"{count} categories have the {key} {value!r}", severity)


def _image_problems(images: list[dict[str, Any]]) -> Iterator[Problem]:
    ids: set[int] = set()
    names: set[str] = set()
    for index, image in enumerate(images):
        where = f"images[{index}] (id {image.get('id')})"
        if not is_integer(image.get("id")) or not isinstance(image.get("file_name"), str):
            text = f'images[{index}]: must have an integer "id" and a text "file_name", got {image!r:.80}'
            yield Problem("bad image entry", text, Severity.FATAL)
            continue
        if not all(is_integer(image.get(key)) and image[key] > 0 for key in ("width", "height")):
            text = f"{where}: width and height must be positive integers: export them, masks are drawn at that size"
            yield Problem("bad image entry", text, Severity.FATAL)
        if image["id"] in ids:
            yield Problem("duplicate image id", f"{where}: an earlier image has this id", Severity.FATAL)
        if image["file_name"] in names:
            text = f"{where}: an earlier image has this file_name too: {image['file_name']}"
            yield Problem("duplicate file name", text)
        ids.add(image["id"])
        names.add(image["file_name"])


def bad_segmentation(annotation: dict[str, Any]) -> str:
    """Why an annotation's segmentation is of no kind that COCO has; empty if it is."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return '"segmentation" is missing: YOLACT learns from masks, boxes alone will not do'
    if isinstance(segmentation, dict):
        return "" if {"size", "counts"} <= set(segmentation) else '"segmentation" must have "size" and "counts"'
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return f"segmentation must be a list of polygons or an RLE object, got {segmentation!r:.60}"
    if any(len(polygon) % 2 for polygon in segmentation):
        return "a polygon of segmentation has an odd number of coordinates: it must be x1, y1, x2, y2, …"
    return ""


def bad_box(box: Any) -> str:
    """Why `box` is no bbox of COCO's; empty if it is, or is missing."""
    if box is None:  # it follows from the mask
        return ""
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)
    if not numbers or not all(math.isfinite(value) for value in box):
        return f"bbox must be four numbers [x, y, width, height], got {box!r:.60}"
    return ""


def is_integer(value: Any) -> bool:
    """Whether a value of a JSON file is an integer, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _few(values: set[Any], limit: int = 10) -> str:
    listed = sorted(map(str, values), key=lambda text: (len(text), text))
    return f"({', '.join(listed[:limit])}{', …' if len(listed) > limit else ''})"
