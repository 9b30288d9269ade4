"""Compares the headers of a data set's pictures with its annotations."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from yolact.data.annotations import Annotations, ImageEntry, Track, no_track
from yolact.data.images import Header, ImageError, is_dark, read_header, read_image
from yolact.data.problems import Problem, counted

_THREADS = 8  # more than there are processors, because threads wait for files on a network
_DEEP_PICTURES_READ = 4


def read_headers(
    annotations: Annotations, images: Sequence[ImageEntry], track: Track = no_track
) -> dict[int, Header | ImageError]:
    """The header of each picture, or the reason why it cannot be read, by the image's id."""
    read = partial(_header, annotations.reading.ignore_exif)
    with ThreadPoolExecutor(min(_THREADS, (os.cpu_count() or 1) * 4)) as pool:
        headers = pool.map(read, [image.path for image in images])
        return dict(zip((image.id for image in images), track(headers, "Reading headers", len(images)), strict=True))


def _header(ignore_exif: bool, path: Path) -> Header | ImageError:
    try:
        return read_header(path, ignore_exif)
    except ImageError as error:
        return error


def picture_problems(
    annotations: Annotations, images: Sequence[ImageEntry], headers: dict[int, Header | ImageError]
) -> list[Problem]:
    """Problems of pictures: broken files, sizes that differ from the annotated ones, EXIF orientations, dark pictures.

    Args:
        annotations: they contain the images.
        images: the images to look at.
        headers: from `read_headers`.
    """
    problems = []
    readable: list[tuple[ImageEntry, Header]] = []
    for image in images:
        header = headers[image.id]
        if isinstance(header, ImageError):
            problems.append(Problem("broken picture", str(header)))
            continue
        readable.append((image, header))
        if (header.width, header.height) != (image.width, image.height):
            problems.append(size_problem(image, (header.width, header.height), annotations.reading.ignore_exif))
    if not annotations.reading.ignore_exif:
        problems += _orientation_problems(readable)
    if annotations.reading.sixteen_bit == "high":
        deep = [image.path for image, header in readable if header.sixteen_bit]
        problems += dark_problems(_dark_ones(deep[:_DEEP_PICTURES_READ]))
    return problems


def size_problem(image: ImageEntry, size: tuple[int, int], ignore_exif: bool) -> Problem:
    """The problem of a picture whose size differs from the annotated one.

    Args:
        image: its entry.
        size: width and height of the picture in pixels.
        ignore_exif: whether its EXIF orientation was ignored.
    """
    fix = "correct width and height in the file, or export the annotations again"
    if size == (image.height, image.width):
        fix = (
            "without --ignore-exif the sizes may agree"
            if ignore_exif
            else "if its EXIF orientation turns it, the annotations are for the stored pixels: give --ignore-exif"
        )
    text = f"{image.path}: the picture has {size[0]}×{size[1]} pixels, but the file says {image.width}×{image.height}"
    return Problem("size contradicts the picture", f"{text}: {fix}")


def turned_in_place(header: Header) -> bool:
    """Whether an EXIF orientation turns a picture without changing its size."""
    return header.orientation in (2, 3, 4) or (header.orientation >= 5 and header.width == header.height)


def _orientation_problems(pictures: Iterable[tuple[ImageEntry, Header]]) -> list[Problem]:
    turned = [image.path for image, header in pictures if turned_in_place(header)]
    if not turned:
        return []
    text = (
        f"EXIF turns {counted(len(turned), 'picture')} without changing the size, for example {turned[0]}: look at the "
        "sheet of yolact data check, which shows them both ways"
    )
    return [Problem("EXIF orientation", text)]


def _dark_ones(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    dark = []
    for path in paths:
        try:
            image = read_image(path)
        except ImageError:  # it is reported when the picture is used
            continue
        if is_dark(image):
            dark.append((path, int(image.max())))
    return dark


def dark_problems(pictures: Sequence[tuple[Path, int]]) -> list[Problem]:
    """The problem of 16-bit pictures that are almost black, given each path and its largest value as it is read."""
    if not pictures:
        return []
    path, most = pictures[0]
    bits = (256 * (most + 1) - 1).bit_length()
    text = (
        f"{counted(len(pictures), 'picture')}, for example {path}: its values have {bits} of 16 bits, so that its "
        f"brightest pixel is {most} of 255"
    )
    return [Problem("dark 16-bit picture", text)]
