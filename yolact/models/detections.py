"""What a detector gives for one image: named tuples that differ in the form of their masks.

Each tuple holds its attributes in the order in which its docstring lists them.

TorchScript and the C++ runtime know named tuples, but a `typing.NamedTuple` cannot inherit fields. `_named_tuple` makes
a named tuple of a class and its bases instead, with the fields in the order of dataclasses.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from torch import Tensor
from typing_extensions import Self, dataclass_transform

from yolact.run_lengths import Grid, MaskCrop

Class = TypeVar("Class", bound="type[_Fields]")


@dataclass_transform(frozen_default=True)
class _Fields(tuple[Any, ...]):
    """For type checkers: the classes below are frozen dataclasses and tuples, with what named tuples have besides."""

    if TYPE_CHECKING:
        _fields: ClassVar[tuple[str, ...]]

        def __new__(cls, *values: Any, **fields: Any) -> Self: ...

        def _asdict(self) -> dict[str, Any]: ...

        def _replace(self, **fields: Any) -> Self: ...


def _named_tuple(cls: Class) -> Class:
    """A named tuple with the name and docstring of `cls`: first the fields of its last base, at the end its own."""
    fields: dict[str, Any] = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(_Fields)]):
        fields.update(base.__annotations__)
    make: Any = NamedTuple  # mypy accepts only a literal name from it
    result: Class = make(cls.__name__, list(fields.items()))
    result.__module__, result.__qualname__, result.__doc__ = cls.__module__, cls.__qualname__, cls.__doc__
    return result


class _Objects(_Fields):
    boxes: Tensor
    scores: Tensor
    labels: Tensor


class _WithMasks(_Objects):
    masks: Tensor


class _WithMaskScores(_Objects):
    mask_scores: Tensor


class _WithSize(_Objects):
    height: int
    width: int


class _WithCount(_Objects):
    count: Tensor  # type: ignore[assignment]  # it hides the method of tuples


@_named_tuple
class Detections(_WithMaskScores, _WithMasks):
    """N objects of one image of H × W pixels, by falling `scores`.

    Attributes:
        boxes: [N, 4] float32 xyxy in pixels, within the image.
        scores: [N] float32, 0–1: of the class and its box.
        labels: [N] int64, indices into the detector's `class_names`.
        masks: [N, H, W] bool.
        mask_scores: [N] float32, not negative: of the masks. YOLACT++ multiplies each score by the IoU that it predicts
            for the mask and the object; with every other network they are `scores`.
    """


@_named_tuple
class EncodedDetections(_WithSize, _WithMaskScores):
    """`Detections` whose masks are run lengths, which JSON and COCO's evaluation take; no mask of H × W was ever made.

    Attributes:
        boxes, scores, labels, mask_scores: as `Detections` has them.
        height, width: of the image in pixels.
        counts: [R] int64: COCO's run lengths of all masks, down the columns, beginning with pixels outside.
        offsets: [N + 1] int64: those of mask n are counts[offsets[n] : offsets[n + 1]].
    """

    counts: Tensor
    offsets: Tensor


@_named_tuple
class CroppedDetections(_WithSize, _WithMaskScores):
    """`Detections` whose masks are crops: see `yolact.ops.assemble_crops`; no mask of H × W was ever made.

    Attributes:
        boxes, scores, labels, mask_scores: as `Detections` has them.
        height, width: of the image in pixels.
        pixels: [P] bool: the crops one after the other, each row by row.
        crops: [N, 4] int64 xyxy in pixels, x2 and y2 exclusive: where they lie. They reach a little beyond the boxes.
        offsets: [N + 1] int64: crop n is pixels[offsets[n] : offsets[n + 1]]. Outside it the mask is empty.
    """

    pixels: Tensor
    crops: Tensor
    offsets: Tensor


@_named_tuple
class FixedDetections(_WithCount, _WithMaskScores, _WithMasks):
    """`Detections` of a size known beforehand: M rows, which the detector's `max_detections` says.

    Attributes:
        boxes, scores, labels, masks, mask_scores: as `Detections` has them for the first `count` rows; after these
            zeros, empty masks and labels of −1.
        count: [] int64, on the device of the others; −1 if the network's output is not finite.
    """


@_named_tuple
class Selected(_WithCount, _WithSize):
    """The M anchors that are selected in one image as its objects, before masks are assembled.

    Attributes:
        boxes: [M, 4] float32 xyxy, relative to the image.
        scores, labels: as `Detections` has them.
        height, width: of the image in pixels.
        count: [] int64: how many rows, from the first on, are objects; −1 if the network's output is not finite.
        prototypes: [h, w, K] of the image.
        coefficients: [M, K].
    """

    prototypes: Tensor
    coefficients: Tensor


def mask_crops(detections: Detections | EncodedDetections | CroppedDetections) -> Iterator[MaskCrop]:
    """The masks on the CPU, one at a time, each cut down to a rectangle that holds all of its pixels."""
    if isinstance(detections, Detections):
        for mask in detections.masks:
            pixels = mask.cpu().numpy()
            rows, columns = (np.flatnonzero(pixels.any(axis=axis)).tolist() for axis in (1, 0))
            if rows:
                inside = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                yield MaskCrop(columns[0], rows[0], inside)
            else:
                yield MaskCrop(0, 0, pixels[:0, :0])
    elif isinstance(detections, EncodedDetections):
        grid = Grid(detections.height, detections.width)
        counts = detections.counts.cpu().numpy()
        for begin, end in pairwise(detections.offsets.tolist()):
            yield grid.pixels(counts[begin:end])
    else:
        for (x1, y1, x2, y2), (begin, end) in zip(
            detections.crops.tolist(), pairwise(detections.offsets.tolist()), strict=True
        ):
            yield MaskCrop(x1, y1, detections.pixels[begin:end].view(y2 - y1, x2 - x1).cpu().numpy())
