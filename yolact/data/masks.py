"""Reads masks of annotation files, in every form that tools write, as checked run lengths.

pycocotools does not check its input: a coordinate of 2e8 exhausts the memory, a NaN causes a segmentation fault, and a
first polygon of four numbers is read as a box. This module checks every mask before pycocotools sees it.
"""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from yolact.data.problems import DataError, shown
from yolact.run_lengths import runs_of

MOST_PIXELS = 2**31  # images must have fewer, or pycocotools' counters overflow


class MaskError(DataError):
    """A segmentation that is not a mask of the image.

    kind: "no mask" if there is no segmentation, else "bad mask".
    """

    def __init__(self, text: str, kind: str = "bad mask"):
        super().__init__(text)
        self.kind = kind


class Mask(NamedTuple):
    """A mask as a compressed run length.

    counts: in pycocotools' format.
    area: in pixels.
    extent: x1, y1, x2, y2 of the annotation in pixels, before it was rounded to pixels or clipped to the image.
    polygons: whether the annotation was polygons.
    notes: what was unusual, as kinds of `yolact.data.problems.KINDS`.
    """

    counts: bytes
    area: int
    extent: tuple[float, float, float, float]
    polygons: bool
    notes: tuple[str, ...]


def read_mask(segmentation: Any, height: int, width: int) -> Mask:
    """Reads a mask in any of COCO's forms, or in one of the forms that tools write instead.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2, …] in pixels; one such polygon; polygons of [x, y] pairs; or a
            dict with `size` [height, width] and `counts`, a list (uncompressed) or text (compressed). Polygons of
            fewer than three points are ignored.
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
    """The polygons of at least three points, each as float64 x1, y1, x2, y2, …"""
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
            raise MaskError(f"a polygon has a coordinate that is not a finite number: {shown(part)}")
        # The rasteriser's work grows with the length of an edge.
        if np.abs(numbers).max(initial=0) > 4 * side:
            raise MaskError(f"a polygon's coordinates lie far outside the image: {shown(part)}")
        if len(numbers) < 6:
            notes.add("stray points")
            continue
        if len(numbers) % 2:
            raise MaskError(f"a polygon has an odd number of coordinates, {len(numbers)}; it must be x1, y1, x2, y2, …")
        polygons.append(numbers)
    if not polygons:
        raise MaskError("its segmentation has no polygon of at least three points", "no mask")
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
    if size != [height, width]:  # also equal if the file says 160.0
        turned = "; it must be [height, width]" if size == [width, height] else ""
        raise MaskError(f"the run length's size is {shown(size)}, but the image's is [{height}, {width}]{turned}")
    if isinstance(counts, list):
        if not all(_is_count(count) for count in counts) or sum(counts) != height * width:
            raise MaskError(f"the run length's counts must be integers of at least 0 that add up to {height}·{width}")
        return rle.frPyObjects({"size": [height, width], "counts": [int(count) for count in counts]}, height, width)
    if not isinstance(counts, str):
        raise MaskError(f"the run length's counts must be a list or text, got {shown(counts)}")
    try:
        text = counts.encode("ascii")
        total = int(runs_of(text).sum())
    except ValueError:
        raise MaskError(f"the run length's counts are not COCO's compressed text: {shown(counts)}") from None
    if total != height * width:
        raise MaskError(f"the run length's counts cover {total} pixels, but the image has {height}·{width}")
    return {"size": [height, width], "counts": text}


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= MOST_PIXELS and value == int(value)
