"""Reports what is in a data set and what is wrong with it."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor

from yolact.data.annotations import Annotations, ImageEntry, Track, inspect_annotations, no_track
from yolact.data.coco import CocoDataset, EncodedSample
from yolact.data.images import IMAGE_SUFFIXES, Header, ImageError, Reading, is_dark
from yolact.data.pictures import dark_problems, picture_problems, read_headers, turned_in_place
from yolact.data.problems import Problem, Severity
from yolact.data.sheet import other_way

SMALL, LARGE = 32**2, 96**2  # pixels of a mask, as COCO counts sizes
_COMPARED = 50  # pictures whose two orientations are compared
_PIXELS_AT_ONCE = 50_000_000  # of the pictures that are read at the same time; each takes about 10 bytes


@dataclass
class ClassCount:
    """How many objects a class has. Crowds are counted separately."""

    name: str
    images: int = 0
    small: int = 0  # less than 32² pixels
    medium: int = 0
    large: int = 0  # 96² pixels or more
    crowds: int = 0

    @property
    def objects(self) -> int:
        return self.small + self.medium + self.large


@dataclass
class Report:
    """Findings about a data set.

    annotations: the file in normalised form.
    images: how many images the file lists.
    empty_images: how many usable images have neither objects nor crowds.
    unlisted_files: how many images of the folder the annotations do not list.
    classes: by label.
    turned: ids of images that EXIF turns without changing their size.
    problems: of the annotations and of the pictures.
    """

    annotations: Annotations
    images: int
    empty_images: int
    unlisted_files: int
    classes: list[ClassCount]
    turned: frozenset[int]
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(problem.severity >= Severity.ERROR for problem in self.problems)

    @property
    def usable(self) -> bool:
        """Whether training and evaluation accept the annotations."""
        return self.annotations.usable


def check(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    headers_only: bool = False,
    reading: Reading | None = None,
    track: Track = no_track,
) -> Report:
    """Reads all images and masks of a data set and reports on them.

    Args:
        annotations: COCO-format JSON file.
        images: the folder that its file names are relative to.
        headers_only: do not read the images' pixels. This is faster, but misses most broken files and all duplicates.
        reading: how pictures are read.
        track: shows progress over an iterable; it also takes a description and the length.

    Raises:
        DataError: if the file is not in COCO's format, or the folder holds none of the images.
    """
    read = inspect_annotations(annotations, images, reading, track=track)
    headers = read_headers(read, read.images, track)
    problems = [*read.problems, *picture_problems(read, read.images, headers)]
    if not headers_only:
        problems = [problem for problem in problems if problem.kind != "dark 16-bit picture"]
        whole = [image for image in read.images if not isinstance(headers[image.id], ImageError)]
        problems += _pixel_problems(read, whole, headers, track)
    classes, object_problems = _objects(read)
    used = {entry.image_id for entry in read.objects}
    listed = {image.path.name for image in read.images}
    return Report(
        annotations=read,
        images=read.listed,
        empty_images=sum(image.id not in used for image in read.images),
        unlisted_files=sum(
            path.suffix.lower() in IMAGE_SUFFIXES and path.name not in listed for path in Path(images).iterdir()
        ),
        classes=classes,
        turned=frozenset(
            number for number, header in headers.items() if isinstance(header, Header) and turned_in_place(header)
        ),
        problems=problems + object_problems,
    )


class _Pixels(NamedTuple):
    reason: str  # why they cannot be read; empty if they can be
    digest: bytes  # of the file
    brightest: int


def _pixel_problems(
    read: Annotations, images: list[ImageEntry], headers: dict[int, Header | ImageError], track: Track
) -> list[Problem]:
    problems: list[Problem] = []
    dark: list[tuple[Path, int]] = []
    first_with: dict[bytes, Path] = {}
    inspect = partial(_inspect, read.reading)
    largest = max((image.width * image.height for image in images), default=1)
    threads = max(1, min(os.cpu_count() or 1, _PIXELS_AT_ONCE // largest))
    with ThreadPoolExecutor(threads) as pool:
        files = pool.map(inspect, [image.path for image in images])
        for image, file in zip(images, track(files, "Reading images", len(images)), strict=True):
            if file.reason:
                problems.append(Problem("broken picture", file.reason))
                continue
            header = headers[image.id]
            if isinstance(header, Header) and header.sixteen_bit and is_dark(torch.tensor([file.brightest])):
                dark.append((image.path, file.brightest))
            twin = first_with.setdefault(file.digest, image.path)
            if twin != image.path:
                text = f"{image.path}: this file has the same content as {twin}"
                problems.append(Problem("duplicate picture", text))
    return problems + (dark_problems(dark) if read.reading.sixteen_bit == "high" else [])


def _inspect(reading: Reading, path: Path) -> _Pixels:
    try:
        brightest = int(reading.read(path).max())
        return _Pixels("", hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), brightest)
    except ImageError as error:
        return _Pixels(str(error), b"", 0)
    except OSError as error:
        return _Pixels(f"{path}: {error}", b"", 0)


def _objects(read: Annotations) -> tuple[list[ClassCount], list[Problem]]:
    """The counts of each class, and a problem for each mask that an image has twice."""
    counts = [ClassCount(category.name) for category in read.categories]
    problems: list[Problem] = []
    sizes = {image.id: [image.height, image.width] for image in read.images}
    labels_of: dict[tuple[int, bytes], set[int]] = defaultdict(set)  # key: image id and mask
    images_of: dict[int, set[int]] = defaultdict(set)
    for entry in read.objects:
        labels, where = labels_of[entry.image_id, entry.counts], f"annotations[{entry.index}]"
        if entry.label in labels:
            text = f"{where}: an earlier annotation of the image has the same mask and the same class"
            problems.append(Problem("duplicate object", text))
        elif labels:
            text = f"{where}: an earlier annotation of the image has the same mask with another class"
            problems.append(Problem("object of two classes", text))
        labels.add(entry.label)
        images_of[entry.label].add(entry.image_id)
        area = int(rle.area({"size": sizes[entry.image_id], "counts": entry.counts}))
        size = "crowds" if entry.crowd else "small" if area < SMALL else "medium" if area < LARGE else "large"
        setattr(counts[entry.label], size, getattr(counts[entry.label], size) + 1)
    for label, count in enumerate(counts):
        count.images = len(images_of[label])
    return counts, problems


def compare_orientations(dataset: CocoDataset, turned: Iterable[int]) -> tuple[int, int]:
    """Counts the pictures that fit their masks better as the data set reads them, and those that fit better turned.

    "Turned" means that the EXIF orientation is treated the other way. A picture fits if the masks' borders lie on edges
    of the picture. At most 50 pictures are compared.

    Args:
        dataset: its transform is not used.
        turned: ids of the images to compare.
    """
    wanted, other = set(turned), other_way(dataset)
    indices = (index for index, image in enumerate(dataset.annotations.images) if image.id in wanted)
    votes = [0, 0]
    for index in islice(indices, _COMPARED):
        try:
            here, there = edge_contrast(dataset.encoded(index)), edge_contrast(other.encoded(index))
        except ImageError:
            continue
        if here != there:
            votes[int(there > here)] += 1
    return votes[0], votes[1]


def edge_contrast(sample: EncodedSample) -> float:
    """The mean difference between neighbouring pixels across the borders of a sample's masks, divided by that of all.

    It is about 1 if the borders lie anywhere, and larger if they lie on edges of the picture. It is 0 without masks.
    """
    masks = sample["masks"]
    # Whether a border lies above each pixel and to the left of it.
    above = np.zeros((masks.height + 1, masks.width), bool)
    left = np.zeros((masks.height, masks.width + 1), bool)
    for x1, y1, mask in masks.resized(masks.height, masks.width):
        height, width = mask.shape
        framed = np.pad(mask, 1)
        above[y1 : y1 + height + 1, x1 : x1 + width] |= framed[1:, 1:-1] != framed[:-1, 1:-1]
        left[y1 : y1 + height, x1 : x1 + width + 1] |= framed[1:-1, 1:] != framed[1:-1, :-1]
    image = sample["image"].as_subclass(Tensor).to(torch.int16)
    across = everywhere = borders = neighbours = 0
    for dim, inner in ((1, above[1:-1]), (2, left[:, 1:-1])):
        steps = image.diff(dim=dim).abs_().sum(dim=0, dtype=torch.int16).numpy()
        across += int(steps[inner].sum())
        everywhere += int(steps.sum())
        borders += int(np.count_nonzero(inner))
        neighbours += steps.size
    return (across / borders) / (everywhere / neighbours) if borders and everywhere else 0.0
