"""Opens an annotation file. If it is not in COCO's format, the error names the format that it has."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolact.data.problems import DataError, shown, some_of

LISTS = ("images", "annotations", "categories")

_LABELME = (
    "LabelMe's format, with one file for each image: convert the folder to one COCO file, for example with "
    "labelme2coco.py of LabelMe's repository (examples/instance_segmentation)"
)
_VIA = "the VGG Image Annotator's own format: export it from there with Annotation → Export Annotations (COCO format)"
_CVAT = 'CVAT\'s own XML: export the task from there as "COCO 1.0"'
_VOC = "Pascal VOC's XML, which holds boxes: YOLACT learns from masks, so export instance segmentation in COCO's format"
_YOLO = "YOLO's text format: export the data set in COCO's instance segmentation format instead"
_RESULTS = "the results of a detector: give the ground truth, a JSON object with images, annotations and categories"
_LABEL_STUDIO = 'Label Studio\'s own format: export the project from there as "COCO"'
_SUPERVISELY = "Supervisely's format, with one file for each image: export the project from there in COCO's format"
_CREATE_ML = "CreateML's format, which holds boxes: YOLACT learns from masks, so export instance segmentation"
_GEOJSON = "GeoJSON: convert its polygons to pixels in COCO's instance format first"
_PANOPTIC = "COCO's panoptic format: give the instances file, or make one with panopticapi's panoptic2detection"
_CAPTIONS = "COCO's captions: give the instances file of the same images"

_MAGIC = (
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first (gunzip)"),
    (b"PK\x03\x04", "it is a ZIP archive: unpack it and give the JSON file inside"),
    (b"\xff\xd8\xff", "it is a picture (JPEG): the JSON file of the annotations comes first, the folder second"),
    (b"\x89PNG", "it is a picture (PNG): the JSON file of the annotations comes first, the folder second"),
)


def read_content(path: Path, need_annotations: bool = True) -> dict[str, Any]:
    """The content of a file in COCO's instance format. Its three lists exist, but their entries are not checked yet.

    Args:
        path: the file.
        need_annotations: if False, a file without annotations or categories is accepted, as for COCO's test images.

    Raises:
        DataError: if the file cannot be read or has another format. The message names the format and what to do.
    """
    raw = _read(path)
    content = _parse(path, raw)
    if isinstance(content, dict) and "annotations" not in content and "images" in content and not need_annotations:
        content = {"categories": [], **content, "annotations": []}
    if not isinstance(content, dict) or any(key not in content for key in LISTS):
        if known := _name_of(content):
            raise DataError(f"{path}: this is {known}")
        if not isinstance(content, dict):
            raise DataError(
                f"{path}: must hold an object with the lists {', '.join(LISTS)}, but holds a {type(content).__name__}"
            )
        missing = next(key for key in LISTS if key not in content)
        raise DataError(f'{path}: has no "{missing}", only {some_of(content)}: export it in COCO\'s instance format')
    for key in LISTS:
        if not isinstance(content[key], list):
            raise DataError(f'{path}: "{key}" must be a list, got {shown(content[key])}')
    if known := _other_coco(content["annotations"]):
        raise DataError(f"{path}: this is {known}")
    return content


def _read(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such annotation file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: this is a folder: {_advice_for_folder(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: the name holds a NUL character
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: the annotation file cannot be read: {reason}") from None
    if not raw.strip():
        raise DataError(f"{path}: the annotation file is empty")
    return raw


def _advice_for_folder(path: Path) -> str:
    names = sorted(os.listdir(path))
    files = [name for name in names if name.endswith(".json")]
    if files:
        try:
            known = _name_of(json.loads((path / files[0]).read_bytes()))
        except (OSError, ValueError, RecursionError):
            known = None
        if known:
            return f"its {files[0]} is in {known}"
        return f"give the JSON file of the annotations in it ({some_of(files, 3)})"
    for suffix, known in ((".xml", _VOC), (".txt", _YOLO)):
        if any(name.endswith(suffix) for name in names):
            return f"its {suffix} files look like {known}"
    return "give the JSON file of the annotations"


def _parse(path: Path, raw: bytes) -> Any:
    for magic, advice in _MAGIC:
        if raw.startswith(magic):
            raise DataError(f"{path}: this is not JSON: {advice}")
    try:
        content = json.loads(raw)
        # json.loads silently takes the last of repeated lists.
        if any(raw.count(f'"{key}"'.encode()) > 1 for key in LISTS):
            json.loads(raw, object_pairs_hook=_without_repetition)
        return content
    except RecursionError:
        raise DataError(f"{path}: its lists are nested too deeply for annotations") from None
    except _RepeatedKeyError as error:
        raise DataError(f'{path}: has "{error}" twice in one object: merge the two lists') from None
    except ValueError as error:
        if known := _name_of_text(raw):
            raise DataError(f"{path}: this is {known}") from None
        cut = "was the download or the export cut short?"
        raise DataError(f"{path}: this is not JSON ({shown(str(error), 200)}): {cut}") from None


class _RepeatedKeyError(Exception):
    pass


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs if key in LISTS]
        if len(set(keys)) < len(keys):
            raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return content


def _name_of_text(raw: bytes) -> str | None:
    text = raw[:10_000].decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        if "<annotations" in text:
            return _CVAT
        return _VOC if "<annotation" in text else "XML: export the annotations in COCO's instance format"
    lines = [line.split() for line in text.splitlines()[:20] if line.strip()]
    if lines and all(len(line) >= 5 and line[0].isdigit() and _are_parts(line[1:]) for line in lines[:-1] or lines):
        return _YOLO
    if text.partition("\n")[0].count(",") >= 3 and text[0] not in "{[":
        return "a table (CSV): export the annotations in COCO's instance format"
    return None


def _are_parts(words: list[str]) -> bool:
    try:
        return all(-0.5 <= float(word) <= 1.5 for word in words)
    except ValueError:
        return False


def _name_of(content: Any) -> str | None:
    """Names the format of a parsed file that is not in COCO's format. None if it is unknown."""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        if "image_id" in first and ("score" in first or "category_id" in first):
            return _RESULTS
        if {"data", "annotations"} <= first.keys() or {"data", "completions"} <= first.keys():
            return _LABEL_STUDIO
        if {"image", "annotations"} <= first.keys():
            return _CREATE_ML
        return "a list, which is what the results of a detector look like: give the ground truth instead"
    if not isinstance(content, dict):
        return None
    if "shapes" in content and content.keys() & {"imagePath", "imageData", "imageHeight"}:
        return _LABELME
    if "_via_img_metadata" in content or any(
        isinstance(value, dict) and "regions" in value and "filename" in value for value in _first_values(content)
    ):
        return _VIA
    if "objects" in content and "size" in content:
        return _SUPERVISELY
    if content.get("type") == "FeatureCollection":
        return _GEOJSON
    return None


def _first_values(content: dict[str, Any]) -> Iterator[Any]:
    for _, value in zip(range(3), content.values(), strict=False):
        yield value


def _other_coco(annotations: list[Any]) -> str | None:
    first = annotations[0] if annotations and isinstance(annotations[0], dict) else {}
    if "segments_info" in first:
        return _PANOPTIC
    return _CAPTIONS if "caption" in first else None
