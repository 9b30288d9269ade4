"""COCO's annotation files in one normalised form, which training, evaluation and `yolact data check` share.

Tools write the same thing in different ways. An unusual entry whose meaning is clear is read as it is meant. An entry
that cannot be used is left out here, so no user of the data sees it. `docs/data.md` lists every kind of both.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pycocotools import mask as rle

from yolact.data.classes import folded
from yolact.data.formats import read_content
from yolact.data.images import Header, ImageError, Reading, read_header
from yolact.data.locate import ImageFolder, Place
from yolact.data.masks import MOST_PIXELS, Mask, MaskError, read_mask
from yolact.data.problems import DataError, Problem, Severity, counted, printable, shown, some_of, summary

Track: TypeAlias = Callable[[Iterable[Any], str, int], Iterable[Any]]
FileId: TypeAlias = int | float | str

MOST_UNUSABLE = 0.01  # share of the pictures; one unusable picture is accepted in a data set of any size
_LARGEST_ID = 2**53  # JSON readers that use float64 change larger integers


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image.

    id: unique in its data set. It is the file's own id if all ids of the file are integers.
    file_id: the id in the file.
    name: the file name in the annotation file.
    path: of the picture.
    width, height: in pixels.
    """

    id: int
    file_id: FileId
    name: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class CategoryEntry:
    """A class. `id` and `file_id` have the same meaning as in `ImageEntry`."""

    id: int
    file_id: FileId
    name: str


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """An object or a crowd. Its mask has at least one pixel.

    image_id: of its `ImageEntry`.
    label: the index of its class in `Annotations.categories`.
    crowd: whether it is a region of many objects.
    bbox: x, y, width, height in pixels, as annotated. Some part of it lies inside the image.
    area: in pixels, as annotated.
    counts: the mask as a compressed run length of the image's size, in pycocotools' format.
    index: its index in the file's list of annotations.
    """

    image_id: int
    label: int
    crowd: bool
    bbox: tuple[float, float, float, float]
    area: float
    counts: bytes
    index: int


@dataclass(frozen=True)
class Annotations:
    """The usable part of an annotation file about the pictures of a folder.

    path: of the file.
    listed: how many images the file lists.
    images: the images that can be used, in the file's order.
    categories: by label, that is by rising id. If ids are text, they have the file's order.
    objects: in the file's order.
    annotated: whether the file has any annotation. COCO's test images have none.
    reading: how the pictures are read.
    problems: everything that was odd, corrected or left out.
    """

    path: Path
    listed: int
    images: tuple[ImageEntry, ...]
    categories: tuple[CategoryEntry, ...]
    objects: tuple[ObjectEntry, ...]
    annotated: bool
    reading: Reading
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        return all(problem.severity < Severity.FATAL for problem in self.problems)

    def objects_of(self) -> dict[int, list[ObjectEntry]]:
        """The objects of each image, by the image's id. An image without objects has an empty list."""
        objects: dict[int, list[ObjectEntry]] = {image.id: [] for image in self.images}
        for entry in self.objects:
            objects[entry.image_id].append(entry)
        return objects

    def summary(self) -> list[str]:
        """One line for each kind of problem. Each line names the file."""
        return [f"{self.path}: {line}" for line in summary(self.problems)]


def no_track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """Shows no progress."""
    return items


def read_annotations(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    reading: Reading | None = None,
    need_annotations: bool = True,
    track: Track = no_track,
) -> Annotations:
    """Reads an annotation file into its normalised form.

    Args:
        path: COCO-format JSON.
        images: the folder that its file names are relative to.
        reading: how pictures are read.
        need_annotations: if False, a file without annotations is accepted, such as those of COCO's test images.
        track: shows progress over an iterable; it also takes a description and the length.

    Raises:
        DataError: if the file or the folder cannot be used.
    """
    annotations = inspect_annotations(path, images, reading, need_annotations, track)
    for problem in annotations.problems:
        if problem.severity is Severity.FATAL:
            raise DataError(f"{path}: {problem.text}")
    return annotations


def inspect_annotations(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    reading: Reading | None = None,
    need_annotations: bool = True,
    track: Track = no_track,
) -> Annotations:
    """Like `read_annotations`, but lists what makes a file unusable among the problems instead of raising.

    Raises:
        DataError: if the file is not in COCO's format, or the folder holds none of the images.
    """
    path = Path(path)
    content = read_content(path, need_annotations)
    if not content["images"]:
        raise DataError(f'{path}: "images" is empty: there is nothing to learn from')
    problems: list[Problem] = []
    reading = Reading() if reading is None else reading
    pictures = _read_images(content["images"], ImageFolder(images), reading, problems)
    categories = _read_categories(content["categories"], content["annotations"], problems)
    objects = _read_objects(content["annotations"], pictures, categories, problems, track)
    return Annotations(
        path=path,
        listed=len(content["images"]),
        images=tuple(image for image in pictures.entries if image is not None),
        categories=tuple(categories.classes),
        objects=tuple(objects),
        annotated=bool(content["annotations"]),
        reading=reading,
        problems=tuple(problems),
    )


# Ids


def _id_of(value: Any) -> int | str | None:
    """The meaning of an id in a JSON file: an integer (7, 7.0 and "7" are the same) or text. None if it is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        digits = text.removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 1000 else text or None
    return value if isinstance(value, int) else None


def _exact_id_of(value: Any) -> str | None:
    """Like `_id_of`, but "01" and "1" are two ids."""
    return None if _id_of(value) is None else str(value).strip()


def _identify(values: Iterable[Any]) -> Callable[[Any], int | str | None]:
    """Chooses how the ids of a list are compared: by their value, unless this would make two ids equal."""
    texts = {value.strip() for value in values if isinstance(value, str)}
    return _id_of if len({_id_of(text) for text in texts}) == len(texts) else _exact_id_of


def _inner_ids(keys: list[int | str]) -> list[int]:
    """An integer for each id: the id itself if all ids are integers below `_LARGEST_ID`, else its position from 1."""
    if all(isinstance(key, int) and abs(key) < _LARGEST_ID for key in keys):
        return [key for key in keys if isinstance(key, int)]
    return list(range(1, len(keys) + 1))


# Images


@dataclass(frozen=True)
class _Pictures:
    entries: list[ImageEntry | None]  # None for an image that is left out
    places: dict[int | str, int]  # id as compared → index in `entries`
    identify: Callable[[Any], int | str | None]
    text: bool  # whether any id is text


def _read_images(listed: list[Any], folder: ImageFolder, reading: Reading, problems: list[Problem]) -> _Pictures:
    identify = _identify(entry.get("id") for entry in listed if isinstance(entry, dict))
    chosen: dict[int | str, tuple[int, dict[str, Any]]] = {}
    unusable = 0
    names: Counter[str] = Counter()
    for index, entry in enumerate(listed):
        key = identify(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if key is None or not isinstance(name, str) or not name.strip():
            text = f'images[{index}]: must have an "id" and a "file_name", got {shown(entry, 80)}'
            problems.append(Problem("bad image entry", text))
            unusable += 1
        elif key not in chosen:
            chosen[key] = index, entry
            names[name] += 1
            if names[name] == 2:
                text = f"images[{index}] (id {shown(key)}): an earlier image has the same file_name: {shown(name)}"
                problems.append(Problem("picture listed twice", text))
        elif chosen[key][1].get("file_name") == name:
            problems.append(Problem("repeated entry", f"images[{index}] (id {shown(key)}): {shown(name)}"))
        else:
            text = (
                f"images[{index}] has the same id {shown(key)} as images[{chosen[key][0]}], but another file_name: "
                "give each image its own id, and correct the image_id of its annotations"
            )
            problems.append(Problem("repeated image id", text))
    keys = list(chosen)
    places = folder.find_all(chosen[key][1]["file_name"] for key in keys) if keys else []
    entries: list[ImageEntry | None] = []
    for number, key, place in zip(_inner_ids(keys), keys, places, strict=True):
        index, entry = chosen[key]
        entries.append(_read_image_entry(f"images[{index}]", number, entry, place, folder, reading, problems))
        unusable += entries[-1] is None
    if not any(entries) or (unusable > 1 and unusable > MOST_UNUSABLE * len(listed)):
        reasons = [problem.text for problem in problems if problem.kind in _UNUSABLE_PICTURE]
        text = (
            f"{unusable} of {counted(len(listed), 'image')} cannot be used, for example {reasons[0]}: repair the "
            "data set, or remove these images from the file (yolact data check lists them)"
        )
        problems.append(Problem("too many unusable pictures", text))
    text_ids = any(isinstance(entry.get("id"), str) for _, entry in chosen.values())
    return _Pictures(entries, {key: place for place, key in enumerate(keys)}, identify, text_ids)


_UNUSABLE_PICTURE = {"bad image entry", "missing picture", "broken picture", "picture without a sure file"}


def _read_image_entry(
    where: str,
    number: int,
    entry: dict[str, Any],
    place: Place | None,
    folder: ImageFolder,
    reading: Reading,
    problems: list[Problem],
) -> ImageEntry | None:
    name = entry["file_name"]
    where = f"{where} ({shown(name)})"
    if place is None:
        problems.append(Problem("missing picture", f"{where}: {folder.path / name}: there is no such file"))
        return None
    if place.reason:
        problems.append(Problem("picture without a sure file", f"{where}: {place.reason}"))
        return None
    if "\\" in name and "\\" not in place.path.name:
        problems.append(Problem("file name with backslashes", where))
    sides = [_side(entry.get(key)) for key in ("width", "height")]
    if None in sides:
        header = _header(place.path, reading, problems, where)
        if header is None:
            return None
        given = f"width {shown(entry.get('width'))} and height {shown(entry.get('height'))}"
        problems.append(Problem("size missing", f"{where}: {given} are not a size"))
        sides = [header.width, header.height]
    elif any(type(entry[key]) is not int for key in ("width", "height")):
        given = f"width {shown(entry['width'])}, height {shown(entry['height'])}"
        problems.append(Problem("size not an integer", f"{where}: {given}"))
    width, height = (side for side in sides if side is not None)
    if width * height >= MOST_PIXELS:
        text = f"{where}: {width}×{height} is {MOST_PIXELS} pixels or more: correct width and height"
        problems.append(Problem("bad image entry", text))
        return None
    return ImageEntry(number, entry["id"], name, place.path, width, height)


def _header(path: Path, reading: Reading, problems: list[Problem], where: str) -> Header | None:
    try:
        return read_header(path, reading.ignore_exif)
    except ImageError as error:
        problems.append(Problem("broken picture", f"{where}: {error}"))
        return None


def _side(value: Any) -> int | None:
    """A width or height in pixels. None if the value is not one."""
    number = _number(value)
    return round(number) if number is not None and 0.5 < number < MOST_PIXELS else None


def _number(value: Any) -> float | None:
    """A finite number, which may be written as text. None if the value is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# Categories


@dataclass(frozen=True)
class _Categories:
    classes: list[CategoryEntry]  # by label
    labels: dict[int | str, int | None]  # id as compared → label; None for a category that is left out
    identify: Callable[[Any], int | str | None]
    text: bool


@dataclass(frozen=True)
class _Category:
    key: int | str
    file_id: FileId
    name: str
    parent: str
    uses: int


def _read_categories(listed: list[Any], annotations: list[Any], problems: list[Problem]) -> _Categories:
    if not listed:
        text = '"categories" is empty: list the classes there, for example {"id": 1, "name": "cat"}'
        problems.append(Problem("nothing usable", text))
    identify = _identify(entry.get("id") for entry in listed if isinstance(entry, dict))
    used = Counter(identify(entry.get("category_id")) for entry in annotations if isinstance(entry, dict))
    labels: dict[int | str, int | None] = {}
    entries: dict[int | str, _Category] = {}
    for index, entry in enumerate(listed):
        key = identify(entry.get("id")) if isinstance(entry, dict) else None
        name = _class_name(entry.get("name")) if isinstance(entry, dict) else ""
        if key is None or not name:
            text = f'categories[{index}]: must have an "id" and a "name", got {shown(entry, 80)}'
            problems.append(Problem("bad category entry", text))
            if key is not None:
                labels.setdefault(key, None)
            continue
        if name != entry["name"]:
            text = f"categories[{index}]: the name {shown(entry['name'])} is read as {name}"
            problems.append(Problem("class name", text))
        if key in entries and entries[key].name != name:
            text = (
                f"categories[{index}]: {entries[key].name} has the same id {shown(key)}: give each category its own "
                "id, and correct the category_id of its annotations"
            )
            problems.append(Problem("repeated category id", text))
        elif key in entries:
            problems.append(Problem("repeated entry", f"categories[{index}] (id {shown(key)}, {name})"))
        else:
            entries[key] = _Category(key, entry["id"], name, _class_name(entry.get("supercategory")), used.get(key, 0))
    if listed and not entries:
        problems.append(Problem("nothing usable", "no category has both an id and a name"))
    groups = _classes(list(entries.values()), problems)
    inner = dict(zip(entries, _inner_ids(list(entries)), strict=True))
    classes = []
    for label, group in enumerate(groups):
        first = group[0]
        classes.append(CategoryEntry(inner[first.key], first.file_id, first.name))
        labels.update({category.key: label for category in group})
    if annotations:
        unused = [group[0].name for group in groups if not any(category.uses for category in group)]
        if unused:
            verb = "has" if len(unused) == 1 else "have"
            text = f"{counted(len(unused), 'class', 'classes')} {verb} no annotation: {some_of(unused)}"
            problems.append(Problem("unused class", text))
    return _Categories(classes, labels, identify, any(isinstance(entry.file_id, str) for entry in entries.values()))


def _classes(entries: list[_Category], problems: list[Problem]) -> list[list[_Category]]:
    """The categories of each class. Placeholders are dropped, and categories of the same name are one class."""
    names_used = {entry.name for entry in entries if entry.uses}
    parents = Counter(entry.parent for entry in entries)
    groups: dict[str, list[_Category]] = {}

    def has_parent(entry: _Category) -> bool:
        return entry.parent.casefold() not in ("", "none")

    def is_root(entry: _Category) -> bool:
        return not has_parent(entry) or entry.parent.casefold() == entry.name.casefold()

    for entry in entries:
        others = parents[entry.name] - (entry.parent == entry.name)
        if names_used and not entry.uses and (entry.name in names_used or (is_root(entry) and others > 0)):
            why = "has the name of another" if entry.name in names_used else "is the supercategory of others"
            text = f"{entry.name} (id {shown(entry.file_id)}) has no annotation and {why}"
            problems.append(Problem("placeholder category", text))
        else:
            groups.setdefault(entry.name, []).append(entry)
    for name, group in groups.items():
        if len(group) > 1:
            text = f"{name} (ids {some_of(entry.file_id for entry in group)})"
            problems.append(Problem("two categories of one name", text))
    alike: dict[str, list[str]] = {}
    for name in groups:
        alike.setdefault(folded(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            text = f"{' and '.join(names)} differ only in case or spacing"
            problems.append(Problem("similar class names", text))
    ordered = list(groups.values())
    if all(isinstance(entry.key, int) for entry in entries):
        # The first category gives the class its id: one that is used, or else one that has a supercategory.
        ordered = [
            sorted(group, key=lambda entry: (0 if entry.uses else 1 if has_parent(entry) else 2, entry.key))
            for group in ordered
        ]
        ordered.sort(key=lambda group: group[0].key)
    return ordered


def _class_name(value: Any) -> str:
    """A name on one line, without blanks around it and without unprintable characters. Empty if there is no name."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    text = " ".join(str(value).split()) if "\n" in str(value) or "\r" in str(value) else str(value).strip()
    return printable(text).strip()


# Annotations


def _read_objects(
    listed: list[Any],
    pictures: _Pictures,
    categories: _Categories,
    problems: list[Problem],
    track: Track,
) -> list[ObjectEntry]:
    objects: list[ObjectEntry] = []
    numbers: set[int | str] = set()
    reasons: Counter[str] = Counter()
    considered = relative = polygons = text_ids = 0
    for index, entry in enumerate(track(listed, "Reading masks", len(listed))):
        if not isinstance(entry, dict):
            problems.append(Problem("bad annotation", f"annotations[{index}]: {shown(entry)} is not a JSON object"))
            considered += 1
            continue
        number = _id_of(entry.get("id"))
        where = f"annotations[{index}] (id {shown(entry.get('id'))})"
        if number is None or number in numbers or number == 0:
            what = "no id" if number is None else "the id is 0" if number == 0 else "an earlier annotation has this id"
            problems.append(Problem("annotation id", f"{where}: {what}"))
        if number is not None:
            numbers.add(number)
        text_ids += isinstance(entry.get("image_id"), str) or isinstance(entry.get("category_id"), str)
        key = pictures.identify(entry.get("image_id"))
        place = None if key is None else pictures.places.get(key)
        if place is None:
            text = f'{where}: image_id {shown(entry.get("image_id"))} is not in "images"'
            problems.append(Problem("unknown image", text))
            considered += 1
            continue
        image = pictures.entries[place]
        if image is None:  # the image's own problem says why
            continue
        where = f"{where} of {shown(image.name)}"
        considered += 1
        object_entry, object_problems, mask = _read_object(where, index, entry, image, categories)
        problems += object_problems
        if mask is not None and mask.polygons:
            polygons += 1
            relative += min(image.width, image.height) > 16 and min(mask.extent) >= -0.05 and max(mask.extent) <= 1.05
        if object_entry is not None:
            objects.append(object_entry)
        elif object_problems:
            reasons[object_problems[-1].kind] += 1
    if pictures.text or categories.text or text_ids:
        problems.append(Problem("id as text", "ids of images or categories are text"))
    if polygons and relative == polygons:
        text = (
            "all coordinates of polygons are between 0 and 1: they are fractions of the image's size, but COCO's are "
            "in pixels: multiply x by the width and y by the height of each image"
        )
        problems.append(Problem("relative coordinates", text))
    elif considered and not objects:
        problems.append(_nothing_usable(considered, reasons, problems))
    return objects


def _nothing_usable(considered: int, reasons: Counter[str], problems: list[Problem]) -> Problem:
    if reasons["no mask"] == considered:
        which = "the only annotation" if considered == 1 else f"none of the {considered} annotations"
        return Problem(
            "only boxes",
            f"{which} has {'no' if considered == 1 else 'a'} mask: this is an export for detection, with only boxes, "
            "but YOLACT learns from masks: export the data set for instance segmentation",
        )
    wrong = [problem for problem in problems if problem.severity is Severity.ERROR]
    why = Counter(problem.kind for problem in wrong).most_common(1)[0][0] if wrong else "no object"
    example = next((problem.text for problem in wrong if problem.kind == why), "")
    which = "the only annotation cannot" if considered == 1 else f"none of the {considered} annotations can"
    return Problem("nothing usable", f"{which} be used, most often for this reason: {why}: {example}")


def _read_object(
    where: str, index: int, entry: dict[str, Any], image: ImageEntry, categories: _Categories
) -> tuple[ObjectEntry | None, list[Problem], Mask | None]:
    """The object, its problems and its mask. A left-out object is None, and the last problem is the reason for it."""
    problems: list[Problem] = []
    key = categories.identify(entry.get("category_id"))
    if key is None or key not in categories.labels:
        known = some_of((category.file_id for category in categories.classes), 10)
        text = f'{where}: category_id {shown(entry.get("category_id"))} is not in "categories" ({known})'
        return None, [Problem("unknown category", text)], None
    label = categories.labels[key]
    if label is None:  # the category's own problem says why
        return None, [], None
    crowd = _flag(entry.get("iscrowd", 0))
    if crowd is None:
        text = f"{where}: iscrowd must be 0 or 1, got {shown(entry['iscrowd'])}"
        return None, [Problem("bad crowd flag", text)], None
    if type(entry.get("iscrowd", 0)) is not int:
        problems.append(Problem("crowd flag not 0 or 1", f"{where}: iscrowd is {shown(entry['iscrowd'])}"))
    try:
        mask = read_mask(entry.get("segmentation"), image.height, image.width)
    except MaskError as error:
        return None, [*problems, Problem(error.kind, f"{where}: {error}")], None
    problems += [Problem(kind, where) for kind in mask.notes]
    if mask.area == 0:
        return None, [*problems, Problem("empty mask", f"{where}: its mask contains no pixel of the image")], mask
    bbox = _box(entry.get("bbox"), image)
    if bbox is None:
        if entry.get("bbox") is not None:
            text = f"{where}: bbox {shown(entry['bbox'])} is not an [x, y, width, height] in the image"
            problems.append(Problem("bad box", text))
        x, y, width, height = rle.toBbox({"size": [image.height, image.width], "counts": mask.counts}).tolist()
        bbox = (x, y, width, height)
    else:
        problems += _box_problems(where, bbox, mask, image)
    area = entry.get("area")
    pixels = image.width * image.height
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not 0 < area <= pixels:
        if area is not None:
            problems.append(Problem("bad area", f"{where}: area {shown(area)}"))
        area = mask.area
    return ObjectEntry(image.id, label, crowd, bbox, float(area), mask.counts, index), problems, mask


def _flag(value: Any) -> bool | None:
    if value is None:
        return False
    number = float(value) if isinstance(value, bool) else _number(value)
    if isinstance(value, str) and number is None:
        number = {"false": 0.0, "true": 1.0, "": 0.0}.get(value.strip().lower())
    return None if number not in (0.0, 1.0) else bool(number)


def _box(value: Any, image: ImageEntry) -> tuple[float, float, float, float] | None:
    """A bbox that lies at least partly inside the image. None if the value is not one."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in value):
        return None
    try:
        x, y, width, height = map(float, value)
    except OverflowError:
        return None
    reach = 4 * max(image.width, image.height)
    if not all(abs(number) <= reach for number in (x, y, width, height)) or width <= 0 or height <= 0:
        return None
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return None
    return x, y, width, height


def _within(box: tuple[float, float, float, float], image: ImageEntry) -> tuple[float, float, float, float]:
    """An xyxy box, clipped to the image."""
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height))


def _box_problems(where: str, bbox: tuple[float, float, float, float], mask: Mask, image: ImageEntry) -> list[Problem]:
    x, y, width, height = bbox
    problems = []
    if min(x, y) < -1 or x + width > image.width + 1 or y + height > image.height + 1:
        text = f"{where}: bbox {list(bbox)} extends beyond the image of {image.width}×{image.height} pixels"
        problems.append(Problem("box outside the image", text))
    extent = _within(mask.extent, image)
    # Annotation tools round differently.
    tolerance = max(2.0, 0.1 * max(width, height))

    def differs(box: tuple[float, float, float, float]) -> bool:
        return max(abs(a - b) for a, b in zip(_within(box, image), extent, strict=True)) > tolerance

    if differs((x, y, x + width, y + height)):
        x1, y1, x2, y2 = (round(number, 1) for number in extent)
        is_corners = "" if differs(bbox) else ": it seems to be [x1, y1, x2, y2]"
        text = f"{where}: bbox {list(bbox)}, but the mask's is {[x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)]}"
        problems.append(Problem("box contradicts mask", f"{text}{is_corners}"))
    return problems
