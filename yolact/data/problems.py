"""Every kind of problem that a data set can have, how bad it is, and what is done about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class DataError(ValueError):
    """Data that cannot be used. The message names the file, the entry, its value and the fix."""

    def __init__(self, text: str):
        super().__init__(printable(text))


class Severity(IntEnum):
    """How bad a problem is."""

    NOTE = 0  # the entry is read as it is meant
    WARNING = 1  # worth a look
    ERROR = 2  # the entry is wrong
    FATAL = 3  # the data set is refused

    @property
    def word(self) -> str:
        return "error" if self is Severity.FATAL else self.name.lower()


@dataclass(frozen=True)
class Kind:
    """A kind of problem: how bad it is, and what is done about it."""

    severity: Severity
    consequence: str


_NOTE, _WARNING, _ERROR, _FATAL = Severity
_LEFT_OUT = "left out of training and evaluation"
_REFUSED = "the file is refused"

KINDS: dict[str, Kind] = {
    # Ids
    "annotation id": Kind(_NOTE, "annotations get new ids, because pycocotools counts such annotations wrongly"),
    "id as text": Kind(_NOTE, "ids are matched by their value"),
    "repeated entry": Kind(_NOTE, "counted once"),
    "repeated image id": Kind(_FATAL, _REFUSED),
    "repeated category id": Kind(_FATAL, _REFUSED),
    # Categories
    "class name": Kind(_NOTE, "the name is written on one line without blanks around it"),
    "two categories of one name": Kind(_NOTE, "they are one class"),
    "placeholder category": Kind(_NOTE, "it is not used as a class"),
    "similar class names": Kind(_WARNING, "they stay different classes"),
    "unused class": Kind(_WARNING, "it cannot be learnt"),
    "bad category entry": Kind(_ERROR, "left out with its annotations"),
    # Images
    "file name with backslashes": Kind(_NOTE, "read with slashes"),
    "size not an integer": Kind(_NOTE, "read as an integer"),
    "size missing": Kind(_NOTE, "taken from the picture"),
    "picture listed twice": Kind(_WARNING, "both entries are used, each with its own annotations"),
    "picture without a sure file": Kind(_ERROR, _LEFT_OUT),
    "bad image entry": Kind(_ERROR, _LEFT_OUT),
    "missing picture": Kind(_ERROR, _LEFT_OUT),
    "broken picture": Kind(_ERROR, _LEFT_OUT),
    "size contradicts the picture": Kind(_ERROR, "left out of training; evaluation refuses the file"),
    "duplicate picture": Kind(_WARNING, "both are used"),
    "EXIF orientation": Kind(_WARNING, "pictures are turned upright, unless --ignore-exif is given"),
    "dark 16-bit picture": Kind(_WARNING, "read with its high bytes, unless --16-bit scale is given"),
    "too many unusable pictures": Kind(_FATAL, _REFUSED),
    # Annotations
    "flat polygon": Kind(_NOTE, "read as one polygon"),
    "polygon of points": Kind(_NOTE, "read as x1, y1, x2, y2, …"),
    "number as text": Kind(_NOTE, "read as a number"),
    "stray points": Kind(_NOTE, "polygons of fewer than three points are ignored if there are others"),
    "bad box": Kind(_NOTE, "computed from the mask"),
    "bad area": Kind(_NOTE, "computed from the mask"),
    "crowd flag not 0 or 1": Kind(_NOTE, "read as 0 or 1"),
    "box outside the image": Kind(_WARNING, "training clips it to the image"),
    "object of two classes": Kind(_WARNING, "both are used"),
    "duplicate object": Kind(_ERROR, "both are used"),
    "box contradicts mask": Kind(_ERROR, "both are used as they are"),
    "unknown image": Kind(_ERROR, _LEFT_OUT),
    "unknown category": Kind(_ERROR, _LEFT_OUT),
    "no mask": Kind(_ERROR, _LEFT_OUT),
    "bad mask": Kind(_ERROR, _LEFT_OUT),
    "empty mask": Kind(_ERROR, _LEFT_OUT),
    "bad crowd flag": Kind(_ERROR, _LEFT_OUT),
    "bad annotation": Kind(_ERROR, _LEFT_OUT),
    "relative coordinates": Kind(_FATAL, _REFUSED),
    "only boxes": Kind(_FATAL, _REFUSED),
    "nothing usable": Kind(_FATAL, _REFUSED),
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    kind: one of `KINDS`.
    text: names the entry and its value.
    """

    kind: str
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity


def by_kind(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Problems grouped by kind, the worst kinds first."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.kind, []).append(problem)
    return dict(sorted(groups.items(), key=lambda item: -item[1][0].severity))


def summary(problems: Iterable[Problem]) -> list[str]:
    """One line with an example for each kind of problem, the worst first, for a run that goes on despite them."""
    lines = []
    for kind, group in by_kind(problems).items():
        number = f" ({counted(len(group), 'time')})" if len(group) > 1 else ""
        example = "for example " if len(group) > 1 else ""
        word = "note" if group[0].severity is Severity.NOTE else "warning"
        lines.append(f"{word}: {kind}{number}: {example}{group[0].text} – {KINDS[kind].consequence}")
    return lines


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 error", "2 errors", "no errors".

    Args:
        number: how many.
        noun: its singular.
        plural: its plural; by default the noun with an "s".
    """
    return f"{number or 'no'} {noun if number == 1 else plural or noun + 's'}"


def some_of(values: Iterable[Any], limit: int = 10) -> str:
    """The first few values, separated by commas, and the number of the others."""
    listed = [printable(str(value)) for value in values]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def shown(value: Any, limit: int = 60) -> str:
    """A value of a JSON file as part of a message: on one line and at most `limit` characters long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def printable(text: str) -> str:
    """`text` on one line and without unprintable characters."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character.isspace() else "\ufffd" for character in text
    )
