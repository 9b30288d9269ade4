"""Text in pixels of the font GNU Unifont, for captions that are not ASCII. csrc/runtime/text.cpp has the same rules."""

import functools
import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

HEIGHT = 16  # of every character, in pixels

# What scripts/unifont.py writes: characters up to U+FFFF, their directions, and what may be second in a pair.
CHARACTERS, REPLACEMENT = 0x10000, 0xFFFD
NEUTRAL, LEFT, RIGHT, DIGIT, SEPARATOR = range(5)
FORMS = 0xD800  # plus 1 if an Arabic letter joins the one before it, plus 2 if it joins the one after it
MIRRORED = FORMS + 4  # a bracket in text from right to left


class Unifont:
    """The font's glyphs, and what is known about its characters. Its file is described in scripts/unifont.py."""

    def __init__(self, data: bytes):
        self._kinds = data[:CHARACTERS]
        halves = np.frombuffer(data, np.uint8, CHARACTERS * 2 * HEIGHT, CHARACTERS)
        self._halves = halves.reshape(CHARACTERS, 2, HEIGHT)
        differences = np.frombuffer(data, ">u2", offset=CHARACTERS + halves.size).reshape(-1, 3)
        pairs = differences.cumsum(axis=0, dtype=np.uint16).tolist()
        self._pairs = {(first, second): result for first, second, result in pairs}

    def width(self, code: int) -> int:
        """In pixels: 0, 8 or 16."""
        return 8 * (self._kinds[code] & 3)

    def is_mark(self, code: int) -> bool:
        """Whether it belongs to the character before it."""
        return bool(self._kinds[code] & 4)

    def direction(self, code: int) -> int:
        return self._kinds[code] >> 3

    def pair(self, first: int, second: int) -> int | None:
        """What is drawn instead of two characters, or of one in a form."""
        return self._pairs.get((first, second))

    def glyph(self, code: int) -> npt.NDArray[np.bool_]:
        """[HEIGHT, width] bool, True is ink."""
        return np.unpackbits(self._halves[code].T, axis=1)[:, : self.width(code)].astype(bool)


@functools.cache
def unifont() -> Unifont:
    """The font. It takes 2 MB of memory."""
    packed = Path(__file__).parent / "assets" / "unifont.zlib"
    return Unifont(zlib.decompress(packed.read_bytes()))


def text_pixels(*parts: str) -> npt.NDArray[np.bool_]:
    """Draws text on one line, [HEIGHT, W] bool, True is ink.

    Accents and vowel signs lie over their letter, Arabic letters are joined, and text from right to left is in the
    order in which it is seen. Line breaks are blanks; other control characters draw nothing. A character that the font
    lacks is drawn as U+FFFD.

    Args:
        parts: these stand side by side from left to right, whatever the direction of the text in them is.
    """
    pixels = [np.zeros((HEIGHT, 0), bool)]
    for cell in itertools.chain.from_iterable(map(_cells, parts)):
        width = max(map(unifont().width, cell))
        picture = np.zeros((HEIGHT, width), bool)
        for code in cell:
            glyph = unifont().glyph(code)
            start = (width - glyph.shape[1]) // 2
            picture[:, start : start + glyph.shape[1]] |= glyph
        pixels.append(picture)
    return np.concatenate(pixels, axis=1)


def _cells(text: str) -> list[list[int]]:
    """Splits text into cells, from left to right. A cell is a character with the marks over it."""
    font = unifont()
    codes: list[int] = []
    for character in text:
        code = ord(character)
        if code >= CHARACTERS or 0xD800 <= code < 0xE000:
            code = REPLACEMENT
        both = font.pair(codes[-1], code) if codes else None
        if both is None:
            codes.append(code)
        else:
            codes[-1] = both
    cells: list[list[int]] = []
    for code in filter(font.width, _joined(codes)):
        if cells and font.is_mark(code):
            cells[-1].append(code)
        else:
            cells.append([code])
    return _in_visual_order(cells)


def _joined(codes: Sequence[int]) -> list[int]:
    """Replaces Arabic letters by their forms."""
    font = unifont()
    letters = [index for index, code in enumerate(codes) if not font.is_mark(code)]
    joins = [
        font.pair(codes[before], FORMS + 2) is not None and font.pair(codes[after], FORMS + 1) is not None
        for before, after in itertools.pairwise(letters)
    ]
    shaped = list(codes)
    for index, before, after in zip(letters, [False, *joins], [*joins, False], strict=False):
        shaped[index] = font.pair(codes[index], FORMS + before + 2 * after) or codes[index]
    return shaped


def _in_visual_order(cells: list[list[int]]) -> list[list[int]]:
    """Orders cells from left to right: Unicode's bidirectional algorithm without explicit directions.

    The text as a whole has the direction of its first letter.
    """
    font = unifont()
    kinds = [font.direction(cell[0]) for cell in cells]
    whole = next((kind for kind in kinds if kind in (LEFT, RIGHT)), LEFT)
    for index in range(1, len(kinds) - 1):
        if kinds[index] == SEPARATOR and kinds[index - 1] == kinds[index + 1] == DIGIT:
            kinds[index] = DIGIT
    # Digits after a letter from left to right belong to it.
    letter = whole
    for index, kind in enumerate(kinds):
        if kind in (LEFT, RIGHT):
            letter = kind
        elif kind == DIGIT and letter == LEFT:
            kinds[index] = LEFT
    # What is neutral has the direction of both its neighbours, or that of the whole.
    before, after = (_neighbours(kinds, whole), _neighbours(kinds[::-1], whole)[::-1])
    for index, kind in enumerate(kinds):
        if kind in (NEUTRAL, SEPARATOR):
            kinds[index] = before[index] if before[index] == after[index] else whole
    levels = [1 if kind == RIGHT else 0 if kind == LEFT == whole else 2 for kind in kinds]
    for cell, level in zip(cells, levels, strict=True):
        if level == 1:
            cell[0] = font.pair(cell[0], MIRRORED) or cell[0]
    leveled = list(zip(levels, cells, strict=True))
    for least in (2, 1):
        leveled = _with_reversed_runs(leveled, least)
    return [cell for _, cell in leveled]


def _with_reversed_runs(leveled: Sequence[tuple[int, list[int]]], least: int) -> list[tuple[int, list[int]]]:
    """Reverses each run of cells whose level is at least `least`."""
    result: list[tuple[int, list[int]]] = []
    for reached, group in itertools.groupby(leveled, lambda cell: cell[0] >= least):
        run = list(group)
        result += run[::-1] if reached else run
    return result


def _neighbours(kinds: Sequence[int], whole: int) -> list[int]:
    """For each cell the direction of the last one before it that is not neutral; digits count as from right to left."""
    found, last = [], whole
    for kind in kinds:
        if kind not in (NEUTRAL, SEPARATOR):
            last = LEFT if kind == LEFT else RIGHT
        found.append(last)
    return found
