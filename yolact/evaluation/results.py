"""COCO results of many images, kept in a file instead of memory."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from yolact.files import temporary_space, write_all, written_whole


class Results:
    """COCO results in a temporary file, with one line of JSON for each image.

    Memory holds only the place of each image's line, about 250 bytes an image. The file is deleted with the object.
    TMPDIR says where the file is; that should be on a disk.

    Attributes:
        left_out: images that could not be read and why, by id; they do not count.

    Args:
        entries: of any images in any order, as `coco_results` gives them.

    Raises:
        OSError: if the file cannot be written.
    """

    def __init__(self, entries: Iterable[dict[str, Any]] = ()):
        with temporary_space():
            # Open for as long as this object lives. Without a buffer nothing is left to write when it ends.
            self._file = tempfile.TemporaryFile(prefix="yolact-results-", buffering=0)  # noqa: SIM115
        self._places: dict[int, tuple[int, int]] = {}  # of each image's line: its begin and its size
        self._end = 0
        self._count = 0
        self.left_out: dict[int, str] = {}
        images: dict[int, list[dict[str, Any]]] = {}
        for entry in entries:
            images.setdefault(entry["image_id"], []).append(entry)
        for of_one_image in images.values():
            self.add(of_one_image)

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Adds all the entries of one image, which may be none.

        Raises:
            ValueError: if that image has entries already.
            OSError: if the file cannot be written.
        """
        if not entries:
            return
        image_id = entries[0]["image_id"]
        if image_id in self._places:
            raise ValueError(f"the results of image {image_id} were added before")
        line = json.dumps(list(entries)).encode()
        with temporary_space():
            self._file.seek(self._end)
            write_all(self._file.fileno(), line)
        self._places[image_id] = self._end, len(line)
        self._end += len(line)
        self._count += len(entries)

    def of_image(self, image_id: int) -> list[dict[str, Any]]:
        """A copy of the entries of one image."""
        return json.loads(self._line(image_id)) if image_id in self._places else []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every entry, image by image in the order in which the images were added."""
        for image_id in self._places:
            yield from self.of_image(image_id)

    def __len__(self) -> int:
        """The number of entries."""
        return self._count

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the entries as COCO's results file: one JSON array.

        Raises:
            OSError: if the file cannot be written.
        """
        with written_whole(path) as file:
            file.write(b"[")
            for number, image_id in enumerate(self._places):
                file.write((b", " if number else b"") + self._line(image_id)[1:-1])
            file.write(b"]")

    def _line(self, image_id: int) -> bytes:
        begin, size = self._places[image_id]
        self._file.seek(begin)
        return self._file.read(size)
