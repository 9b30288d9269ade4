"""Masks as COCO's run lengths, and their pixels, without an array of the whole image for each mask.

A run length has the lengths of the runs of a mask down its columns, beginning with pixels outside.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

_MOST_GROUPS = 7  # of 5 bits; a run of an image of less than 2³¹ pixels needs no more


class MaskCrop(NamedTuple):
    """The rectangle of an image in which all pixels of a mask lie.

    x1, y1: its corner in pixels.
    mask: [h, w] bool; [0, 0] if the mask has no pixel.
    """

    x1: int
    y1: int
    mask: np.ndarray


def runs_of(text: bytes) -> np.ndarray:
    """The runs [R] int64 that pycocotools' compressed text holds.

    A number is written as groups of 5 bits, the lowest first. From the fourth run on, the text holds the difference
    from the run before the last.

    Raises:
        ValueError: if the text is cut short or is not a run length.
    """
    if not text:
        return np.zeros(0, np.int64)
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if groups.min() < 0 or groups.max() > 63:
        raise ValueError("not a character of a run length")
    ends = np.flatnonzero(groups < 32)  # larger groups say that another follows
    if len(ends) == 0 or ends[-1] != len(groups) - 1:
        raise ValueError("the text is cut short")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MOST_GROUPS:
        raise ValueError("a run is longer than any image")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((groups & 31) << shifts, starts)
    runs[groups[ends] >= 16] -= 1 << 5 * lengths[groups[ends] >= 16]
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0:
        raise ValueError("a run of negative length")
    return runs


class Grid:
    """Rows and columns of an image, which are the pixels of a smaller or larger picture of it.

    Args:
        height, width: of the image in pixels.
        rows: [h] int64, which row of the image each row of the picture shows; never falling. All rows by default.
        columns: [w], in the same way.
    """

    def __init__(self, height: int, width: int, rows: np.ndarray | None = None, columns: np.ndarray | None = None):
        rows = np.arange(height) if rows is None else rows
        distinct, self._copies = np.unique(np.arange(width) if columns is None else columns, return_counts=True)
        self._height, self._rows = height, len(rows)
        self._rows_before = np.searchsorted(rows, np.arange(height + 1))
        self._columns_before = np.searchsorted(distinct, np.arange(width + 2))

    def touches(self, runs: np.ndarray) -> bool:
        """Whether the mask with these runs [R] has a pixel of the grid."""
        return len(self._inside(runs)[0]) > 0

    def pixels(self, runs: np.ndarray) -> MaskCrop:
        """The mask with these runs [R], in pixels of the picture. Its runs must cover the image."""
        starts, ends = self._inside(runs)
        if len(starts) == 0:
            return MaskCrop(0, 0, np.zeros((0, 0), bool))
        left, right = int(starts[0] // self._rows), int((ends[-1] - 1) // self._rows) + 1
        if (starts // self._rows == (ends - 1) // self._rows).all():
            top, bottom = int((starts % self._rows).min()), int(((ends - 1) % self._rows).max()) + 1
        else:  # a run goes on in the next column
            top, bottom = 0, self._rows
        columns, rows = np.divmod(np.column_stack((starts, ends)).ravel(), self._rows)
        edges = (columns - left) * (bottom - top) + (rows - top).clip(0, bottom - top)
        lengths = np.diff(edges, prepend=0, append=(right - left) * (bottom - top))
        values = np.arange(len(lengths)) % 2 == 1
        mask = np.repeat(values, lengths).reshape(right - left, bottom - top)
        mask = torch.from_numpy(mask).T.contiguous().numpy()  # torch transposes ten times as fast as numpy
        copies = self._copies[left:right]
        if copies.max() > 1:
            mask = np.repeat(mask, copies, axis=1)
        return MaskCrop(int(self._copies[:left].sum()), top, mask)

    def _inside(self, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the mask begins and ends, counted down the columns of the grid, each column once."""
        columns, rows = np.divmod(np.cumsum(runs), self._height)
        before = self._columns_before[columns]
        shown = self._columns_before[columns + 1] - before  # 0 or 1
        places = before * self._rows + shown * self._rows_before[rows]
        starts, ends = places[0 : len(places) - 1 : 2], places[1::2]
        kept = ends > starts
        return starts[kept], ends[kept]


@dataclass(frozen=True)
class RunLengths:
    """The masks of the N objects of an image.

    texts: N run lengths as pycocotools' compressed text, which `yolact.data.masks.read_mask` has checked.
    height, width: of the image in pixels.
    """

    texts: tuple[bytes, ...]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.texts)

    def resized(self, height: int, width: int) -> Iterator[MaskCrop]:
        """The masks, one at a time, in pixels of a picture of another size."""
        rows, columns = nearest(slice(0, self.height), height), nearest(slice(0, self.width), width)
        grid = Grid(self.height, self.width, rows, columns)
        return (grid.pixels(runs_of(text)) for text in self.texts)


def nearest(part: slice, size: int) -> np.ndarray:
    """Which of the pixels in `part` of an axis torch's "nearest-exact" takes for each of `size` pixels, int64."""
    pixels = torch.arange(part.start, part.stop, dtype=torch.float32)  # exact below 2²⁴
    return F.interpolate(pixels[None, None, None], size=(1, size), mode="nearest-exact").flatten().long().numpy()
