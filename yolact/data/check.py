"""What is in a data set, and what is wrong with it."""

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

import torch
from pycocotools import mask as rle
from torch import Tensor

from yolact.data.annotations import Annotations, ImageEntry, Track, inspect_annotations, no_track
from yolact.data.coco import CocoDataset, Sample
from yolact.data.images import IMAGE_SUFFIXES, Header, ImageError, Reading, is_dark
from yolact.data.pictures import dark_problems, picture_problems, read_headers, turned_in_place
from yolact.data.problems import Problem, Severity
from yolact.data.sheet import other_way

SMALL, LARGE = 32**2, 96**2  # pixels of a mask, as COCO counts sizes
_COMPARED = 50  # pictures that are looked at both ways


@dataclass
class ClassCount:
    """Objects of a class, crowds apart."""

    name: str
    images: int = 0
    small: int = 0  # up to 32² pixels
    medium: int = 0
    large: int = 0  # from 96² pixels on
    crowds: int = 0

    @property
    def objects(self) -> int:
        return self.small + self.medium + self.large


@dataclass
class Report:
    """Findings about a data set.

    annotations: the file in normalised form.
    images: that the file names.
    empty_images: usable images without objects and crowds.
    unlisted_files: images of the folder that the annotations do not name.
    classes: by label.
    turned: ids of images that EXIF turns without a change of size.
    problems: those of the annotations and of the pictures.
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
        """Whether training and evaluation take the annotations."""
        return self.annotations.usable


def check(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    headers_only: bool = False,
    reading: Reading | None = None,
    track: Track = no_track,
) -> Report:
    """Reads a whole data set, images and masks.

    Args:
        annotations: COCO-format JSON file.
        images: the folder that its file names are relative to.
        headers_only: read no pixels of the images: faster, but broken and duplicate files go unnoticed.
        reading: how pictures are read.
        track: shows progress over an iterable, of a description and a length.

    Raises:
        DataError: if the file is not COCO's, or the folder holds none of the images.
    """
    read = inspect_annotations(annotations, images, reading, track=track)
    headers = read_headers(read, read.images, track)
    problems = [*read.problems, *picture_problems(read, read.images, headers)]
    if not headers_only:
        problems = [problem for problem in problems if problem.kind != "dark 16-bit picture"]
        whole = [image for image in read.images if not isinstance(headers[image.id], ImageError)]
        problems += _pixel_problems(read, whole, headers, track)
    classes, found = _objects(read)
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
        problems=problems + found,
    )


class _Pixels(NamedTuple):
    reason: str  # why they cannot be read; empty if they can
    digest: bytes  # of the file
    brightest: int


def _pixel_problems(
    read: Annotations, images: list[ImageEntry], headers: dict[int, Header | ImageError], track: Track
) -> list[Problem]:
    problems: list[Problem] = []
    dark: list[tuple[Path, int]] = []
    first_with: dict[bytes, Path] = {}
    inspect = partial(_inspect, read.reading)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
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
                text = f"{image.path}: has the same content as {twin}"
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
    """Counts by class, and masks that an image has twice."""
    counts = [ClassCount(category.name) for category in read.categories]
    problems: list[Problem] = []
    sizes = {image.id: [image.height, image.width] for image in read.images}
    labels_of: dict[tuple[int, bytes], set[int]] = defaultdict(set)  # of each image and mask
    images_of: dict[int, set[int]] = defaultdict(set)
    for entry in read.objects:
        labels, where = labels_of[entry.image_id, entry.counts], f"annotations[{entry.index}]"
        if entry.label in labels:
            problems.append(
                Problem("duplicate object", f"{where}: the image has this very mask with this class before")
            )
        elif labels:
            text = f"{where}: the image has this very mask with another class before"
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
    """How many pictures fit their masks better as the data set reads them, and how many the other way.

    The masks' borders should lie on edges of the picture.

    Args:
        dataset: without a transform.
        turned: ids of the images to compare.
    """
    wanted, other = set(turned), other_way(dataset)
    indices = (index for index, image in enumerate(dataset.annotations.images) if image.id in wanted)
    votes = [0, 0]
    for index in islice(indices, _COMPARED):
        try:
            here, there = edge_contrast(dataset[index]), edge_contrast(other[index])
        except ImageError:
            continue
        if here != there:
            votes[int(there > here)] += 1
    return votes[0], votes[1]


def edge_contrast(sample: Sample) -> float:
    """The mean step between neighbouring pixels across the borders of a sample's masks, over that of all pixels.

    1 where borders lie anywhere, and more where they lie on edges of the picture; 0 without masks.
    """
    image = sample["image"].as_subclass(Tensor).float()
    masks = sample["masks"].as_subclass(Tensor).bool()
    across, everywhere = [], []
    for dim in (1, 2):
        steps = image.diff(dim=dim).abs().sum(dim=0)
        borders = (masks.int().diff(dim=dim) != 0).any(dim=0)
        across.append(steps[borders])
        everywhere.append(steps.flatten())
    border, mean = torch.cat(across), torch.cat(everywhere).mean()
    return float(border.mean() / mean) if len(border) and mean > 0 else 0.0
