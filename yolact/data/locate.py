"""Finds the picture files that annotations name."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from yolact.data.problems import DataError, counted

_PREFIXES_2014 = ("COCO_train2014_", "COCO_val2014_", "COCO_test2014_", "COCO_test2015_")


class Place(NamedTuple):
    """Where a picture lies.

    path: of the file.
    named: whether this is exactly the file that was named.
    reason: why it is not clear which file is meant; empty if it is clear.
    """

    path: Path
    named: bool
    reason: str = ""


class ImageFolder:
    """The folder of a data set's pictures. Folders are listed once, because a query for each file is slow on a network.

    Raises:
        DataError: if there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.is_dir():
            there = self.path.exists()
            what = "this is a file, not the folder of images" if there else "there is no such folder of images"
            raise DataError(f"{self.path}: {what}")
        self._listings: dict[str, frozenset[str]] = {}

    def find(self, file_name: str) -> Place | None:
        """The file of an image. None if there is none.

        It tries `file_name` itself, then slashes in place of backslashes, then only its last part, then COCO's names
        of 2014 in place of those of 2017 and the reverse.
        """
        if self._has(file_name):
            return Place(self.path / file_name, named=True)
        slashed = file_name.replace("\\", "/")
        if slashed != file_name and self._has(slashed):
            return Place(self.path / slashed, named=True)
        flat = slashed.rpartition("/")[2]
        number = re.sub(r"^COCO_[a-z]+\d{4}_", "", flat)
        for names in ((flat,), (number, *(prefix + number for prefix in _PREFIXES_2014))):
            there = [name for name in dict.fromkeys(names) if name and self._has(name)]
            if len(there) == 1:
                return Place(self.path / there[0], named=False)
            if there:
                reason = f"{file_name} is not in {self.path}, and it could be {' or '.join(there)}"
                return Place(self.path / file_name, False, reason)
        return self._find_composed(slashed)

    def find_all(self, file_names: Iterable[str]) -> list[Place | None]:
        """The file of each image. If the rules of `find` lead from two names to one file, neither name gets it."""
        names = list(file_names)
        places = [self.find(name) for name in names]
        named = {place.path: name for name, place in zip(names, places, strict=True) if place and place.named}
        taken: dict[Path, set[str]] = {}
        for name, place in zip(names, places, strict=True):
            if place and not place.named and not place.reason:
                taken.setdefault(place.path, set()).add(name)
        for number, (name, place) in enumerate(zip(names, places, strict=True)):
            if place is None or place.named or place.reason:
                continue
            others = sorted((taken[place.path] | {named.get(place.path, name)}) - {name})
            if others:
                reason = f"{name} is not in {self.path}, and {place.path.name} could as well be {others[0]}"
                places[number] = Place(self.path / name, False, reason)
        if names and not any(place and not place.reason for place in places):
            unsure = next((place.reason for place in places if place), "")
            raise DataError(
                f"{self.path}: {unsure}: give the folder that these names are relative to"
                if unsure
                else f"{self.path}: none of the {counted(len(names), 'image')} of the annotations is there, not even "
                f"{names[0]}: give the folder that these names are relative to"
            )
        return places

    def _has(self, name: str) -> bool:
        folder, _, last = name.rpartition("/")
        if last in ("", ".", ".."):
            return False
        # Only the file system knows whether it ignores case.
        try:
            return last in self._names(folder) or os.path.exists(self.path / name)
        except ValueError:  # the name holds a NUL character
            return False

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(self.path / folder))
            except OSError:
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def _find_composed(self, name: str) -> Place | None:
        """The file whose name has the same letters in another Unicode form, as in archives from macOS."""
        folder, _, last = name.rpartition("/")
        if last.isascii():
            return None
        wanted = unicodedata.normalize("NFC", last)
        try:
            there = [entry for entry in self._names(folder) if unicodedata.normalize("NFC", entry) == wanted]
        except ValueError:
            return None
        return Place(self.path / folder / there[0], named=True) if len(there) == 1 else None
