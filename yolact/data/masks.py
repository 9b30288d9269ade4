"""Masks of annotation files, of any kind that tools write, as guarded run lengths.

pycocotools trusts what it is given: a coordinate of 2e8 exhausts the memory, a NaN is a segmentation fault, and a first
polygon of four numbers is taken for a box. Nothing reaches it that has not passed here.
"""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from yolact.data.problems import DataError, shown

MOST_PIXELS = 2**31  # of an image: more would overflow what pycocotools counts with


class MaskError(DataError):
    """A segmentation that is no mask of the image.

    kind: "no mask" where there is nothing, or "bad mask".
    """

    def __init__(self, text: str, kind: str = "bad mask"):
        super().__init__(text)
        self.kind = kind


class Mask(NamedTuple):
    """A mask as a compressed run length.

    counts: as pycocotools takes them.
    area: pixels.
    extent: x1, y1, x2, y2 of all that was annotated, in pixels, before it was cut to whole pixels or to the image.
    polygons: whether it came from polygons.
    notes: kinds of `yolact.data.problems.KINDS` that it took to read it.
    """

    counts: bytes
    area: int
    extent: tuple[float, float, float, float]
    polygons: bool
    notes: tuple[str, ...]


def read_mask(segmentation: Any, height: int, width: int) -> Mask:
    """A mask of any of COCO's kinds, and of those that tools write in their place.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2, …] in pixels, of which those with fewer than three points
            count for nothing; one such polygon; polygons of [x, y] pairs; or a dict with `size` [height, width] and
            `counts`, a list (uncompressed) or text (compressed).
        height, width: of the image in pixels.

    Raises:
        MaskError: if it is none of these or does not fit the image.
    """
    notes: set[str] = set()
    if isinstance(segmentation, dict) and segmentation:
        encoded = _checked_run_length(segmentation, height, width)
        x, y, box_width, box_height = rle.toBbox(encoded).tolist()
        extent = (x, y, x + box_width, y + box_height)
    else:
        polygons = _polygons(segmentation, max(height, width), notes)
        points = np.concatenate(polygons).reshape(-1, 2)
        extent = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        encoded = rle.merge(rle.frPyObjects([polygon.tolist() for polygon in polygons], height, width))
    return Mask(encoded["counts"], int(rle.area(encoded)), extent, isinstance(segmentation, list), tuple(sorted(notes)))


def _polygons(segmentation: Any, side: int, notes: set[str]) -> list[np.ndarray]:
    """The polygons of at least three points, each flat float64."""
    if segmentation is None or segmentation in ([], {}, ""):
        raise MaskError("it has no segmentation", "no mask")
    if not isinstance(segmentation, list):
        raise MaskError(f"segmentation must be a list of polygons or a run length, got {shown(segmentation)}")
    if not any(isinstance(part, list) for part in segmentation):
        notes.add("flat polygon")
        segmentation = [segmentation]
    elif len(segmentation) > 2 and all(_is_point(part) for part in segmentation):
        notes.add("polygon of points")
        segmentation = [[number for point in segmentation for number in point]]
    polygons = []
    for part in segmentation:
        if isinstance(part, list) and part and all(_is_point(point) for point in part):
            notes.add("polygon of points")
            part = [number for point in part for number in point]
        numbers = _numbers(part, notes)
        if not np.isfinite(numbers).all():
            raise MaskError(f"a polygon has a coordinate that is no finite number: {shown(part)}")
        # Also keeps the rasteriser, whose work grows with an edge's length, from walking to infinity.
        if np.abs(numbers).max(initial=0) > 4 * side:
            raise MaskError(f"a polygon's coordinates lie far outside the image: {shown(part)}")
        if len(numbers) < 6:
            notes.add("stray points")
            continue
        if len(numbers) % 2:
            raise MaskError(f"a polygon has an odd number of coordinates, {len(numbers)}; it must be x1, y1, x2, y2, …")
        polygons.append(numbers)
    if not polygons:
        raise MaskError("its segmentation has no polygon of three points", "no mask")
    return polygons


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and not any(isinstance(number, (list, dict)) for number in value)


def _numbers(part: Any, notes: set[str]) -> np.ndarray:
    try:
        array = np.asarray(part)
        if array.dtype.kind == "U":
            notes.add("number as text")
        if array.dtype.kind in "iufU" and array.ndim == 1:
            return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    raise MaskError(f"a polygon must be a list of numbers x1, y1, x2, y2, …, got {shown(part)}")


def _checked_run_length(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:  # equal too where they are 160.0
        turned = "; it must be [height, width]" if size == [width, height] else ""
        raise MaskError(f"the run length's size is {shown(size)}, but the image's is [{height}, {width}]{turned}")
    if isinstance(counts, list):
        if not all(_is_count(count) for count in counts) or sum(counts) != height * width:
            raise MaskError(f"the run length's counts must be integers from 0 that add up to {height}·{width}")
        return rle.frPyObjects({"size": [height, width], "counts": [int(count) for count in counts]}, height, width)
    if not isinstance(counts, str):
        raise MaskError(f"the run length's counts must be a list or text, got {shown(counts)}")
    try:
        text = counts.encode("ascii")
        total = sum(_runs(text))
    except (UnicodeEncodeError, IndexError, ValueError):
        raise MaskError(f"the run length's counts are not COCO's compressed text: {shown(counts)}") from None
    if total != height * width:
        raise MaskError(f"the run length's counts cover {total} pixels, but the image has {height}·{width}")
    return {"size": [height, width], "counts": text}


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= MOST_PIXELS and value == int(value)


def _runs(text: bytes) -> list[int]:
    """Lengths of the runs of compressed text: little-endian groups of 5 bits, from the fourth run on as differences.

    Raises:
        IndexError, ValueError: if the text is cut short or holds what no run length does.
    """
    runs: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            bits = text[position] - 48
            if not 0 <= bits < 64:
                raise ValueError("not a character of a run length")
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
