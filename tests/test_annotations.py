"""Annotation files as tools write them: files of the same meaning score the same, and others give one clear message."""

import gzip
import json
import math
import random
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from torch import Tensor

import yolact
from yolact.data.annotations import inspect_annotations, read_annotations
from yolact.data.classes import partners
from yolact.data.coco import CocoDataset
from yolact.data.images import ImageError, Reading
from yolact.data.locate import ImageFolder
from yolact.data.masks import MaskError, read_mask
from yolact.data.problems import KINDS, DataError, Severity, shown, some_of
from yolact.data.shapes import CLASS_NAMES, write_dataset
from yolact.data.start import check_training_data, require_known_classes
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import segment_all
from yolact.evaluation.scores import Scores, score
from yolact.models.detector import EncodedDetections

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 60, 80
SQUARE = [10.0, 20.0, 40.0, 20.0, 40.0, 50.0, 10.0, 50.0]  # x 10–40, y 20–50
THRESHOLD = 0.15


class Recorded:
    """Replays the bundled model's detections for each picture."""

    def __init__(self, folder: Path):
        detector = yolact.load("yolact_shapes")
        self.class_names = list(detector.class_names)
        self.detections = [
            (image, detector.forward_encoded([image])[0])
            for image in map(yolact.read_image, sorted(folder.glob("*.jpg")))
        ]

    def forward_encoded(self, images: list[Tensor]) -> list[EncodedDetections]:
        return [next(result for known, result in self.detections if known.equal(image)) for image in images]


def rows_of(mask: np.ndarray) -> list[list[float]]:
    """A mask as polygons, one for each run of pixels in a row. Together they are exactly that mask."""
    polygons = []
    for y, row in enumerate(mask):
        ends = np.flatnonzero(np.diff(np.concatenate(([0], row, [0])).astype(int)))
        polygons += [[x1, y, x2, y, x2, y + 1, x1, y + 1] for x1, x2 in ends.reshape(-1, 2).tolist()]
    return [[float(number) for number in polygon] for polygon in polygons]


class Perfect:
    """Pictures, a model, and annotations that are the model's own detections, so that it scores 100."""

    def __init__(self, folder: Path):
        write_dataset(folder / "set", train=0, val=2, size=128, seed=3)
        self.images = folder / "set" / "val"
        self.file = folder / "annotations.json"
        self.model = Recorded(self.images)
        paths = sorted(self.images.glob("*.jpg"))
        self.content = {
            "images": [
                {"id": number, "file_name": path.name, "width": 128, "height": 128}
                for number, path in enumerate(paths, start=1)
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)],
            "annotations": [],
        }
        self.runs = []  # the same masks as run lengths
        for number, (_, detections) in enumerate(self.model.detections, start=1):
            for entry in yolact.coco_results(detections, number):
                mask = rle.decode(entry["segmentation"])
                if entry.pop("score") > THRESHOLD and mask.sum() > 4:
                    del entry["box_score"]
                    self.runs.append(entry["segmentation"])
                    entry["segmentation"] = rows_of(mask)
                    own = {"id": len(self.runs), "area": float(mask.sum()), "iscrowd": 0}
                    self.content["annotations"].append({**entry, **own})

    def write(self, content: dict | bytes | str) -> Path:
        raw = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
        self.file.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
        return self.file

    def score(self) -> Scores:
        evaluation_set = EvaluationSet.read(self.file, self.images)
        dataset = CocoDataset(self.file, self.images)
        assert len(evaluation_set.truth.anns) == len(dataset.annotations.objects)  # both readers have the same truth
        for note in (*evaluation_set.notes, *evaluation_set.class_notes(self.model.class_names)):
            assert note.isprintable()
        return score(evaluation_set, segment_all(self.model, evaluation_set))


@pytest.fixture(scope="module")
def perfect(tmp_path_factory) -> Perfect:
    return Perfect(tmp_path_factory.mktemp("perfect"))


Change = Callable[[dict, random.Random], object]


def each(name: str, change: Callable[[dict], object]) -> Change:
    """Changes all entries of a list."""
    return lambda content, draw: [change(entry) for entry in content[name]]


def one(name: str, change: Callable[[dict], object]) -> Change:
    """Changes one entry of a list."""
    return lambda content, draw: change(draw.choice(content[name]))


def put(key: str, value: object) -> Callable[[dict], object]:
    return lambda entry: entry.update({key: value})


def drop(key: str) -> Callable[[dict], object]:
    return lambda entry: entry.pop(key)


def prepend(part: object) -> Callable[[dict], object]:
    return lambda entry: entry["segmentation"].insert(0, part)


def rename(change: Callable[[str], str]) -> Callable[[dict], object]:
    return lambda entry: entry.update(name=change(entry["name"]))


def ids(change: Callable[[int], object], lists: str) -> Change:
    """Changes the ids of images ("i") or categories ("c"), where they are listed (upper case) or referred to."""

    def apply(content: dict, draw: random.Random) -> None:
        for listed, key, letter in (("images", "image_id", "i"), ("categories", "category_id", "c")):
            if letter.upper() in lists:
                for entry in content[listed]:
                    entry["id"] = change(entry["id"])
            if letter in lists:
                for entry in content["annotations"]:
                    entry[key] = change(entry[key])

    return apply


def second_category_of_its_name(content: dict, draw: random.Random) -> None:
    entry = draw.choice(content["annotations"])
    name = next(category["name"] for category in content["categories"] if category["id"] == entry["category_id"])
    content["categories"].append({"id": 99, "name": name})
    entry["category_id"] = 99


def as_pairs(entry: dict) -> None:
    entry["segmentation"] = [np.reshape(polygon, (-1, 2)).tolist() for polygon in entry["segmentation"]]


def as_text(entry: dict) -> None:
    entry["segmentation"] = [[str(number) for number in polygon] for polygon in entry["segmentation"]]


def number_anew(content: dict, draw: random.Random) -> None:
    for image_id in (1, 2):
        own = [entry for entry in content["annotations"] if entry["image_id"] == image_id]
        for number, entry in enumerate(own):
            entry["id"] = number


HARMLESS: dict[str, Change] = {
    "ids of annotations that start anew at 0 in each image": number_anew,
    "ids of annotations are missing": each("annotations", drop("id")),
    "ids of annotations are one": each("annotations", put("id", 7)),
    "ids of annotations are text": each("annotations", put("id", "a7")),
    "an id of an annotation is a list": one("annotations", put("id", [1])),
    "an id of an annotation is null": one("annotations", put("id", None)),
    "all ids are text": ids(str, "IiCc"),
    "ids of images are text where they are listed": ids(str, "I"),
    "ids of images are text where they are referred to": ids(str, "i"),
    "ids of categories are text where they are listed": ids(str, "C"),
    "ids of categories have zeros in front": ids(lambda number: f"{number:04d}", "c"),
    "ids are words": ids(lambda number: f"no. {number}", "IiCc"),
    "ids are words with one number": ids(lambda number: "1" if number == 1 else f"no. {number}", "IiCc"),
    "ids are huge": ids(lambda number: 10**30 + number, "IiCc"),
    "ids are negative": ids(lambda number: -number, "IiCc"),
    "ids start at 0": ids(lambda number: number - 1, "IiCc"),
    "ids are fractions": ids(float, "IiCc"),
    "sizes are fractions": each("images", lambda entry: entry.update(width=128.0, height=128.0)),
    "sizes are text": each("images", lambda entry: entry.update(width="128", height="128.0")),
    "no size": each("images", lambda entry: (entry.pop("width"), entry.pop("height"))),
    "no height": one("images", drop("height")),
    "width 0": one("images", put("width", 0)),
    "width is null": one("images", put("width", None)),
    "width is NaN": one("images", put("width", math.nan)),
    "width is a list": one("images", put("width", [128])),
    "width is true": one("images", put("width", True)),
    "width is beyond all pictures": one("images", put("width", 1e30)),
    "backslashes": each("images", lambda entry: entry.update(file_name="..\\val\\" + entry["file_name"])),
    "a folder that is not there": each("images", lambda entry: entry.update(file_name="C:\\x\\" + entry["file_name"])),
    "an image entry twice": lambda content, draw: content["images"].append(dict(content["images"][0])),
    "no area": each("annotations", drop("area")),
    "area is text": one("annotations", put("area", "312.0")),
    "area is negative": each("annotations", put("area", -5)),
    "area is NaN": each("annotations", put("area", math.nan)),
    "area is infinite": each("annotations", put("area", math.inf)),
    "area is 0": each("annotations", put("area", 0)),
    "area is null": each("annotations", put("area", None)),
    "area is a list": one("annotations", put("area", [])),
    "area is huge": each("annotations", put("area", 10**400)),
    "iscrowd is false": each("annotations", put("iscrowd", False)),
    "iscrowd is null": one("annotations", put("iscrowd", None)),
    "iscrowd is missing": each("annotations", drop("iscrowd")),
    "iscrowd is text": each("annotations", put("iscrowd", "0")),
    "iscrowd is a word": each("annotations", put("iscrowd", "False")),
    "iscrowd is a fraction": each("annotations", put("iscrowd", 0.0)),
    "an empty polygon first": one("annotations", prepend([])),
    "one point first": one("annotations", prepend([100, 100])),
    "two points first": one("annotations", prepend([1, 1, 5, 5])),
    "one number first": one("annotations", prepend([1])),
    "polygons of pairs": each("annotations", as_pairs),
    "numbers as text": each("annotations", as_text),
    "a box is missing": one("annotations", drop("bbox")),
    "a box is null": one("annotations", put("bbox", None)),
    "an annotation without a mask more": lambda content, draw: content["annotations"].append(
        {"id": 900, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": [], "iscrowd": False}
    ),
    "an annotation of an unknown image more": lambda content, draw: content["annotations"].append(
        {**content["annotations"][0], "id": 900, "image_id": 77}
    ),
    "entries that are none": lambda content, draw: [
        content[name].append(None) for name in ("annotations", "categories")
    ],
    "names end with line breaks": each("categories", rename("{}\n".format)),
    "names have blanks around": each("categories", rename(" {}\t".format)),
    "names in capitals": each("categories", rename(str.upper)),
    "a name with a hyphen": one("categories", rename(lambda name: f"{name[:2]}-{name[2:]}")),
    "two categories of one name": second_category_of_its_name,
    "a category twice": lambda content, draw: content["categories"].append(dict(draw.choice(content["categories"]))),
    "a placeholder category": lambda content, draw: (
        [entry.update(supercategory="things") for entry in content["categories"]],
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"}),
    ),
    "a placeholder of the same name": lambda content, draw: content["categories"].insert(
        0, {"id": 0, "name": content["categories"][content["annotations"][0]["category_id"] - 1]["name"]}
    ),
    "keys that nobody knows": lambda content, draw: content.update(info={"year": math.nan, "é": "\ud83d\ude00"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_files_of_the_same_meaning_score_the_same(perfect, name):
    content = deepcopy(perfect.content)
    HARMLESS[name](content, random.Random(name))
    assert json.dumps(content) != json.dumps(perfect.content)
    perfect.write(content)
    scores = perfect.score()
    assert scores.mask.ap == pytest.approx(100)
    if "box" not in name:
        assert scores.box.ap == pytest.approx(100)
    assert {entry.name for entry in CocoDataset(perfect.file, perfect.images).annotations.categories} >= {
        category["name"].strip() for category in content["categories"][1:3]
    }


@pytest.mark.parametrize("kind", ["compressed", "counted", "fractions"])
def test_run_lengths_score_the_same(perfect, kind):
    content = deepcopy(perfect.content)
    for entry, runs in zip(content["annotations"], perfect.runs, strict=True):
        entry["segmentation"] = dict(runs)
        if kind != "compressed":
            flat = np.concatenate(([0], rle.decode(runs).ravel(order="F"), [2])).astype(int)
            counts = np.diff(np.concatenate(([0], np.flatnonzero(np.diff(flat))))).tolist()
            entry["segmentation"]["counts"] = counts if kind == "counted" else [float(count) for count in counts]
    perfect.write(content)
    assert perfect.score().mask.ap == pytest.approx(100)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_any_encoding(perfect, encoding):
    perfect.write(json.dumps(perfect.content, ensure_ascii=False).encode(encoding))
    assert perfect.score().mask.ap == pytest.approx(100)


ODD_VALUES = [
    None, True, False, 0, -1, 2, 10**30, 1e308, math.nan, math.inf, -math.inf, "", " ", "1", "nan", "é\ud800", "a\0b",
    "x" * 5000, [], [[]], [[[[]]]], [None], {}, {"a": 1}, [1, 2, 3], [[1, 2]], [[1, 2, 3]], [["a"] * 6], [[None] * 6],
    [[math.nan] * 6], [[2e8, 0, 2e8, 2e8, 0, 2e8]], [[True] * 6], {"size": [128, 128], "counts": "x"},
    {"size": [128, 128], "counts": [2**70]}, {"size": None, "counts": None}, {"size": [1e9, 1e9], "counts": []},
    {"size": [128, 128], "counts": [128 * 128, -5, 5]}, {"size": [128, 128], "counts": ["a"]}, [10**400] * 4, "../..",
    [math.nan] * 4, [-5, -5, 3, 3], [0, 0, 0, 0], ["1", "2", "3", "4"], [[10**400] * 6], [[1, 2, 3, 4, 5, 6, 7]],
]  # fmt: skip


def odd_changes() -> list[tuple[str, str | None, object]]:
    """Values of every kind, and no value, for every key of every list and for the lists themselves."""
    keys = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"),
        "categories": ("id", "name", "supercategory"),
    }
    changes: list[tuple[str, str | None, object]] = []
    for name, own in keys.items():
        changes += [(name, None, value) for value in (None, 3, "x", {}, [], [None], [[]], [{}], [3])]
        changes += [(name, key, value) for key in own for value in ODD_VALUES]
        changes += [(name, key, KeyError) for key in own]
    return changes


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_odd_values_never_end_in_a_traceback(perfect, name):
    """Tries every value for every key. A few of the cases run a whole evaluation."""
    draw = random.Random(0)
    changes = [change for change in odd_changes() if change[0] == name]
    whole = deepcopy(perfect.content)
    for entry, runs in zip(whole["annotations"], perfect.runs, strict=True):
        entry["segmentation"] = runs
    for number, (_, key, value) in enumerate(changes):
        content = {key: [dict(entry) for entry in entries] for key, entries in whole.items()}
        if key is None:
            content[name] = value
        else:
            for entry in content[name] if draw.random() < 0.2 else [draw.choice(content[name])]:
                entry.pop(key, None) if value is KeyError else entry.update({key: value})
        try:
            perfect.write(content)
            dataset = CocoDataset(perfect.file, perfect.images)
            lines = check_training_data(dataset)
            objects = sum(len(dataset[index]["labels"]) for index in range(len(dataset)))
            assert objects == len(dataset.annotations.objects)
            if number % 20 == 0:
                scores = perfect.score()
                assert 0 <= scores.mask.ap <= 100
        except (DataError, ImageError) as error:
            lines = [str(error)]
            assert lines[0].startswith((str(perfect.file), str(perfect.images))), (key, value)
        except ValueError as error:
            lines = [str(error)]
            assert "this model is for another data set" in lines[0], (key, value)
        for line in lines:
            assert line.isprintable(), (key, value)
            assert len(line) < 6000 if value == "x" * 5000 else len(line) < 800, (key, value, line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the annotation file is empty"),
        (b'{"images": [', "this is not JSON"),
        (b"\xff\xfe\xfa", "this is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"images": 1' + b"0" * 5000 + b"}", "this is not JSON"),
        (gzip.compress(b"{}", mtime=0), "compressed with gzip"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\xff\xd8\xff\xe0", "a picture"),
        (b"3", "holds a int"),
        (b"null", "holds a NoneType"),
        (b"[]", "a list is what|a list, which is what the results of a detector look like"),
        (b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]', "the results of a detector"),
        (b'{"images": [], "categories": []}', 'has no "annotations"'),
        (b'{"images": [{}], "annotations": 3, "categories": []}', '"annotations" must be a list'),
        (b'{"images": [{}], "annotations": null, "categories": []}', '"annotations" must be a list'),
        (b'{"images": [], "annotations": [], "categories": [{}]}', '"images" is empty'),
        (b'{"images": [], "annotations": [], "categories": [], "images": []}', 'has "images" twice'),
        (b'{"version": "5", "shapes": [], "imagePath": "a.jpg"}', "LabelMe.*convert the folder"),
        (b'{"1.jpg207163": {"filename": "1.jpg", "regions": []}}', "VGG Image Annotator.*Export Annotations"),
        (b'{"_via_settings": {}, "_via_img_metadata": {}}', "VGG Image Annotator"),
        (b'<?xml version="1.0"?><annotations><version>1.1</version></annotations>', "CVAT.*COCO 1.0"),
        (b"<annotation><filename>a.jpg</filename></annotation>", "Pascal VOC"),
        (b"0 0.5 0.5 0.1 0.2\n1 0.25 0.5 0.125 0.25\n", "YOLO"),
        (b"0 0.5 0.5 0.1 0.2 0.3 0.3", "YOLO"),
        (b"filename,width,height,class\na.jpg,1,2,cat\n", "a table"),
        (b'[{"data": {"image": "a.jpg"}, "annotations": []}]', "Label Studio.*COCO"),
        (b'[{"image": "a.jpg", "annotations": [{"label": "cat"}]}]', "CreateML"),
        (b'{"objects": [], "size": {"width": 3}}', "Supervisely"),
        (b'{"type": "FeatureCollection", "features": []}', "GeoJSON"),
        (b'{"images": [{}], "annotations": [{"segments_info": []}], "categories": []}', "panoptic"),
        (b'{"images": [{}], "annotations": [{"caption": "a cat"}], "categories": []}', "captions"),
    ],
)
def test_other_formats_are_named(tmp_path, text, message):
    file = tmp_path / "a.json"
    file.write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(file, tmp_path)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_file_gets_advice(tmp_path):
    with pytest.raises(DataError, match="no such annotation file"):
        read_annotations(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="a folder: give the JSON file"):
        read_annotations(tmp_path, tmp_path)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.2")
    with pytest.raises(DataError, match="a folder: its .txt files look like YOLO"):
        read_annotations(tmp_path, tmp_path)
    (tmp_path / "a.json").write_text('{"shapes": [], "imagePath": "a.jpg"}')
    with pytest.raises(DataError, match="a folder: its a.json is in LabelMe"):
        read_annotations(tmp_path, tmp_path)


def compressed(mask: np.ndarray) -> dict:
    encoded = rle.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict:
    flat = np.concatenate(([0], mask.ravel(order="F"), [2]))
    ends = np.flatnonzero(np.diff(flat.astype(int)))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate(([0], ends))).tolist()}


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return mask


def decoded(segmentation: object) -> np.ndarray:
    return rle.decode({"size": [HEIGHT, WIDTH], "counts": read_mask(segmentation, HEIGHT, WIDTH).counts})


def test_a_polygon_of_several_parts_is_one_mask():
    parts = [[0, 0, 10, 0, 10, 10, 0, 10], [20, 20, 30, 20, 30, 30, 20, 30], [1, 1, 2, 2]]
    assert np.array_equal(decoded(parts), rectangle(0, 0, 10, 10) | rectangle(20, 20, 30, 30))


@pytest.mark.parametrize(
    "segmentation",
    [SQUARE, [SQUARE], np.reshape(SQUARE, (-1, 2)).tolist(), [np.reshape(SQUARE, (-1, 2)).tolist()]],
)
def test_a_polygon_in_each_spelling(segmentation):
    assert np.array_equal(decoded(segmentation), rectangle(10, 20, 40, 50))


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": [0.5, HEIGHT * WIDTH - 0.5]},
        {"size": [HEIGHT, WIDTH], "counts": compressed(rectangle(3, 4, 50, 40))["counts"][:-2]},
        {"size": [HEIGHT, WIDTH], "counts": compressed(rectangle(3, 4, 50, 40))["counts"] * 2},
        {"size": [HEIGHT, WIDTH], "counts": "ÿ"},
        {"size": [HEIGHT, WIDTH], "counts": 3},
        {"size": [HEIGHT, WIDTH]},
        {"counts": [HEIGHT * WIDTH]},
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, math.nan, 0, 5, 5]],
        [[0, 0, None, 0, 5, 5]],
        [[0, 0, 9, 0, 5, 5], [0, 0, math.inf, 0, 5, 5]],
        [["a", "b", "c", "d", "e", "f"]],
        [[0, 0, 9, 0, 9, 9, 0]],
        [[[[0, 0], [9, 0], [9, 9]]]],
        [{"x": 1, "y": 2}],
        "mask.png",
        7,
    ],
)
def test_refuses_masks_that_do_not_fit_the_image(segmentation):
    with pytest.raises(MaskError) as caught:
        read_mask(segmentation, HEIGHT, WIDTH)
    assert caught.value.kind == "bad mask"


@pytest.mark.parametrize("segmentation", [None, [], {}, "", [[]], [[], []], [[10, 10]], [10, 10], [[1, 1, 9, 9]]])
def test_refuses_a_missing_mask(segmentation):
    with pytest.raises(MaskError) as caught:
        read_mask(segmentation, HEIGHT, WIDTH)
    assert caught.value.kind == "no mask"


def test_any_mask_survives_the_check_of_its_runs():
    generator = np.random.default_rng(0)
    for density in (0.0, 0.01, 0.5, 1.0):
        mask = (generator.uniform(size=(HEIGHT, WIDTH)) < density).astype(np.uint8)
        for segmentation in (compressed(mask), uncompressed(mask)):
            assert np.array_equal(decoded(segmentation), mask)


def annotation(number: int, image_id: object = 1, category_id: object = 7, **changes: object) -> dict:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": 900,
        "bbox": [10, 20, 30, 30],
        "segmentation": [SQUARE],
        **changes,
    }


class Set:
    """A data set in a folder."""

    def __init__(self, folder: Path, annotations: list[dict], images: int = 1):
        self.folder, self.file = folder / "images", folder / "annotations.json"
        self.folder.mkdir()
        names = [f"{number:04d}.png" for number in range(1, images + 1)]
        for name in names:
            Image.new("RGB", (WIDTH, HEIGHT)).save(self.folder / name)
        self.content = {
            "images": [
                {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
                for number, name in enumerate(names, start=1)
            ],
            "annotations": annotations,
            "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
        }

    def read(self):
        self.file.write_text(json.dumps(self.content))
        return inspect_annotations(self.file, self.folder)

    def kinds(self) -> list[str]:
        return [problem.kind for problem in self.read().problems if problem.kind != "unused class"]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"image_id": 5}, "unknown image", r"annotations\[0\] \(id 1\): image_id 5 is not"),
        ({"category_id": 1}, "unknown category", r"category_id 1 is not in \"categories\" \(7, 90\)"),
        ({"segmentation": "mask.png"}, "bad mask", "segmentation must be a list of polygons"),
        ({"segmentation": None}, "no mask", "it has no segmentation"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "bad mask", "odd number"),
        ({"segmentation": {"size": [1, 1]}}, "bad mask", r"size is \[1, 1\], but the image's \[60, 80\]|is \[60, 80\]"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": []}}, "bad mask", r"it must be \[height, width\]"),
        ({"segmentation": [[100, 100, 120, 100, 120, 120]]}, "empty mask", "no pixel"),
        ({"iscrowd": 2}, "bad crowd flag", "iscrowd must be 0 or 1, got 2"),
    ],
)
def test_unusable_annotations_are_left_out(tmp_path, changes, kind, message):
    data = Set(tmp_path, [annotation(1, **changes), annotation(2)])
    read = data.read()
    [problem] = [problem for problem in read.problems if problem.kind == kind]
    assert problem.severity is Severity.ERROR
    assert re.search(message, problem.text)
    assert [entry.index for entry in read.objects] == [1]
    [line] = [line for line in read.summary() if kind in line]
    assert line.startswith(f"{data.file}: warning: {kind}: ")
    assert line.endswith("left out of training and evaluation")
    evaluation_set = EvaluationSet.read(data.file, data.folder)
    assert len(evaluation_set.truth.anns) == 1
    assert line in evaluation_set.notes
    assert line in check_training_data(CocoDataset(data.file, data.folder))


def fractions(content: dict) -> None:
    for entry in content["annotations"]:
        entry["segmentation"] = [(np.array(SQUARE) / 80).tolist()]


NOTHING: dict[str, tuple[Callable[[dict], object], str]] = {
    "boxes": (
        lambda content: [entry.update(segmentation=[]) for entry in content["annotations"]],
        "none of the 2 annotations has a mask: this is an export for detection.*YOLACT learns from masks",
    ),
    "one box": (
        lambda content: (content["annotations"].pop(), content["annotations"][0].pop("segmentation")),
        "the only annotation has no mask: this is an export for detection",
    ),
    "crowds": (
        lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]],
        "all of its 2 annotations are crowds",
    ),
    "unknown images": (
        lambda content: [entry.update(image_id=9) for entry in content["annotations"]],
        "none of the 2 annotations can be used, most often for this reason: unknown image",
    ),
    "no class": (lambda content: content.update(categories=[]), '"categories" is empty'),
    "no class with a name": (lambda content: content.update(categories=[{"id": 7}]), "no category has both"),
    "parts": (fractions, "between 0 and 1.*multiply x by the width"),
    "an id of two images": (
        lambda content: content["images"][1].update(id=1),
        r"images\[1\] has the same id 1 as images\[0\], but another file_name: give each image its own id",
    ),
    "an id of two categories": (lambda content: content["categories"][1].update(id=90), "dog has the same id 90"),
    "wrong pictures": (
        lambda content: [entry.update(width=40, height=30) for entry in content["images"]],
        "0001.png: the picture has 80×60 pixels, but the file says 40×30: correct width and height",
    ),
    "missing pictures": (
        lambda content: [entry.update(file_name=f"x{entry['id']}") for entry in content["images"]],
        "none of the 2 images of the annotations is there, not even x1",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_data_with_nothing_to_learn_are_refused_before_the_first_step(tmp_path, name):
    change, message = NOTHING[name]
    data = Set(tmp_path, [annotation(1), annotation(2, 2)], images=2)
    change(data.content)
    data.file.write_text(json.dumps(data.content))
    with pytest.raises(DataError, match=message):
        check_training_data(CocoDataset(data.file, data.folder))
    with pytest.raises(DataError, match=message):
        EvaluationSet.read(data.file, data.folder)
    with pytest.raises(DataError, match=message):
        EvaluationSet.of(CocoDataset(data.file, data.folder))


def test_a_file_without_annotations_can_be_segmented_but_not_learnt_from(tmp_path):
    data = Set(tmp_path, [])
    data.read()
    with pytest.raises(DataError, match="there is nothing to learn from: it has no annotation"):
        check_training_data(CocoDataset(data.file, data.folder))
    with pytest.raises(DataError, match="there is nothing to compare with: it has no annotation"):
        EvaluationSet.of(CocoDataset(data.file, data.folder))
    assert EvaluationSet.read(data.file, data.folder).truth is None


def test_one_missing_picture_is_left_out_and_more_are_refused(tmp_path):
    data = Set(tmp_path, [annotation(1), annotation(2, 2), annotation(3, 3)], images=3)
    (data.folder / "0002.png").unlink()
    read = data.read()
    assert [image.id for image in read.images] == [1, 3]
    assert len(read.objects) == 2
    evaluation_set = EvaluationSet.read(data.file, data.folder)
    assert evaluation_set.image_ids == (1, 3)
    assert any("missing picture: images[1]" in note for note in evaluation_set.notes)
    (data.folder / "0003.png").unlink()
    with pytest.raises(DataError, match="2 of 3 images cannot be used, for example images"):
        read_annotations(data.file, data.folder)


def test_a_picture_that_breaks_later_does_not_end_an_evaluation(perfect, tmp_path):
    """Only its pixels are cut short, so its header is fine."""
    perfect.write(perfect.content)
    for path in perfect.images.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "000001.jpg"
    broken.write_bytes(broken.read_bytes()[:-2000])
    evaluation_set = EvaluationSet.read(perfect.file, tmp_path)
    results = segment_all(perfect.model, evaluation_set)
    assert list(results.left_out) == [2]
    assert str(broken) in results.left_out[2]
    assert score(evaluation_set, results).mask.ap == pytest.approx(100)
    results.left_out[1] = "gone"
    with pytest.raises(ValueError, match="none of the images could be read"):
        score(evaluation_set, results)


def test_pictures_with_the_same_name_are_never_confused(tmp_path):
    data = Set(tmp_path, [annotation(1), annotation(2, 2), annotation(3, 3)], images=3)
    entries = data.content["images"]
    entries[0]["file_name"], entries[1]["file_name"] = "cam1/0001.png", "cam2/0001.png"
    with pytest.raises(DataError, match="cam1/0001.png is not in .*, and 0001.png could as well be cam2/0001.png"):
        read_annotations(data.read().path, data.folder)
    entries[0]["file_name"] = "0001.png"  # this name fits exactly
    read = data.read()
    assert [image.name for image in read.images] == ["0001.png", "0003.png"]
    assert data.kinds() == ["picture without a sure file"]
    (data.folder / "cam2").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(data.folder / "cam2" / "0001.png")
    assert data.kinds() == []
    assert data.read().images[1].path == data.folder / "cam2" / "0001.png"


def test_pictures_are_found_if_only_one_file_fits(tmp_path):
    folder = ImageFolder(tmp_path)
    for name in ("COCO_train2014_000000000009.jpg", "COCO_val2014_000000000009.jpg", "Ae\u0301.jpg", "a\\b.jpg"):
        (tmp_path / name).touch()
    assert "could be COCO_train2014_000000000009.jpg or COCO_val2014" in folder.find("000000000009.jpg").reason
    assert folder.find("A\u00e9.jpg").path.name == "Ae\u0301.jpg"
    assert folder.find("a\\b.jpg").path.name == "a\\b.jpg"
    for nothing in ("", ".", "..", "a\0b", "x" * 5000, "a/" * 2000, "/", "\ud800"):
        assert folder.find(nothing) is None
    with pytest.raises(DataError, match="a file, not the folder"):
        ImageFolder(tmp_path / "a\\b.jpg")


def test_results_have_the_ids_of_the_file(perfect, tmp_path):
    content = deepcopy(perfect.content)
    ids(lambda number: f"no. {number}", "IiCc")(content, random.Random(0))
    perfect.write(content)
    evaluation_set = EvaluationSet.read(perfect.file, perfect.images)
    results = segment_all(perfect.model, evaluation_set)
    evaluation_set.write_results(results, tmp_path / "results.json")
    entries = json.loads((tmp_path / "results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {"no. 1", "no. 2"}
    assert {entry["category_id"] for entry in entries} <= {f"no. {number}" for number in range(1, 11)}
    assert len(entries) == len(results)


def test_text_ids_that_differ_only_in_zeros_stay_different(tmp_path):
    data = Set(tmp_path, [annotation(1, "1"), annotation(2, "01")], images=2)
    data.content["images"][0]["id"], data.content["images"][1]["id"] = "1", "01"
    read = data.read()
    assert [image.file_id for image in read.images] == ["1", "01"]
    assert [entry.image_id for entry in read.objects] == [1, 2]


def test_roboflows_placeholder_is_not_a_class(tmp_path):
    data = Set(tmp_path, [annotation(0, category_id=1)])
    data.content["categories"] = [
        {"id": 0, "name": "Tumor", "supercategory": "none"},
        {"id": 1, "name": "Tumor", "supercategory": "Tumor"},
    ]
    assert data.kinds() == ["placeholder category", "annotation id"]
    assert [(entry.id, entry.name) for entry in data.read().categories] == [(1, "Tumor")]
    data.content["annotations"] = []  # if neither is used, the category that has a parent stands for the class
    assert [(entry.id, entry.name) for entry in data.read().categories] == [(1, "Tumor")]
    data.content["annotations"] = [annotation(1, category_id=0), annotation(2, category_id=1)]
    assert [(entry.id, entry.name) for entry in data.read().categories] == [(0, "Tumor")]


def test_unused_classes_give_one_warning(tmp_path):
    data = Set(tmp_path, [annotation(1)])
    data.content["categories"] += [{"id": 100 + number, "name": f"class {number}"} for number in range(64)]
    [problem] = data.read().problems
    assert problem.text.startswith("65 classes have no annotation: dog, class 0, class 1")
    assert problem.text.endswith("and 55 more")


def test_boxes_are_compared_with_the_drawn_outline(tmp_path):
    """A thin polygon falls between the pixels, and a box may be cut at the image's border or not."""
    thin = [10.0, 10.0, 70.0, 10.2, 70.0, 10.4, 40.0, 14.0, 10.0, 10.4]
    over = [-20.0, 20.0, 40.0, 20.0, 40.0, 50.0, -20.0, 50.0]
    good = [
        annotation(1, segmentation=[thin], bbox=[10, 10, 60, 4]),
        annotation(2, segmentation=[over], bbox=[0, 20, 40, 30]),
        annotation(3, segmentation=[over], bbox=[-20, 20, 60, 30]),
        annotation(4, segmentation=uncompressed(rectangle(10, 20, 40, 50))),
    ]
    data = Set(tmp_path, [*good, annotation(5, bbox=[10, 20, 40, 50])])
    problems = [p for p in data.read().problems if p.kind == "box contradicts mask"]
    assert len(problems) == 1
    assert "annotations[4]" in problems[0].text
    assert problems[0].text.endswith(": it seems to be [x1, y1, x2, y2]")


def test_class_names_are_matched_as_people_write_them():
    assert partners(["Traffic Light", "cat"], ["traffic_light", "CAT", "dog"]) == {
        "Traffic Light": "traffic_light",
        "cat": "CAT",
    }
    assert partners(["cat"], ["Cat", "cat"]) == {"cat": "cat"}
    assert partners(["cat"], ["Cat", "CAT"]) == {}  # it could be either of them
    assert partners(["Cat", "cat"], ["cat"]) == {"cat": "cat"}
    assert partners(["дом"], ["ДОМ"]) == {"дом": "ДОМ"}


def test_classes_without_a_partner_are_named(perfect):
    perfect.write(perfect.content)
    evaluation_set = EvaluationSet.read(perfect.file, perfect.images)
    names = ["unicorn", *CLASS_NAMES[1:-1], CLASS_NAMES[-1].upper()]
    assert evaluation_set.categories_of(names) == [None, *range(2, 11)]
    notes = evaluation_set.class_notes(names)
    assert notes[0] == "note: model and data write 1 class differently: ARROW = arrow"
    assert notes[1].endswith("left out of the results: unicorn")
    assert notes[2] == "warning: 1 class of the data that the model lacks and cannot find: circle"
    assert evaluation_set.class_notes(list(CLASS_NAMES)) == []
    assert "in order" in evaluation_set.class_notes([f"class {number}" for number in range(1, 11)])[0]


def test_validation_may_lack_classes_but_not_have_others(tmp_path):
    data = Set(tmp_path, [annotation(1)])
    read = data.read()
    require_known_classes(["cat", "bird"], read)  # "dog" is listed, but has no object
    require_known_classes(["Cat"], read)
    with pytest.raises(DataError, match="validation has objects of cat, but the classes of training are dog, bird"):
        require_known_classes(["dog", "bird"], read)


def test_training_samples_headers(tmp_path):
    data = Set(tmp_path, [annotation(1)], images=3)
    Image.new("RGB", (WIDTH, WIDTH)).save(data.folder / "0002.png")
    data.read()
    lines = check_training_data(CocoDataset(data.file, data.folder))
    assert any("size contradicts the picture" in line and "0002.png" in line for line in lines)
    (data.folder / "0003.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 3 pictures cannot be used"):
        check_training_data(CocoDataset(data.file, data.folder))
    with pytest.raises(DataError, match="1 of 3 pictures has another size than annotated"):
        EvaluationSet.read(data.file, data.folder)


def test_every_reader_uses_the_reading_settings(tmp_path):
    data = Set(tmp_path, [annotation(1)])
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.save(data.folder / "0001.png", exif=exif)
    data.read()
    for ignore_exif in (False, True):
        reading = Reading(ignore_exif)
        evaluation_set = EvaluationSet.read(data.file, data.folder, reading)
        [(_, image)] = evaluation_set.read_images()
        assert bool(image[0, 0, 0]) == ignore_exif
        assert any("EXIF orientation" in note for note in evaluation_set.notes) != ignore_exif
        sample = CocoDataset(data.file, data.folder, reading=reading)[0]
        assert sample["image"][0].tolist() == image[:, :, 0].tolist()


def test_every_kind_of_problem_is_documented():
    table = (ROOT / "docs" / "data.md").read_text()
    for kind, what in KINDS.items():
        [line] = [line for line in table.splitlines() if line.startswith(f"| {kind} |")]
        word = "refused" if what.severity is Severity.FATAL else what.severity.name.lower()
        assert f"| {word} |" in line, kind


def test_values_are_shown_on_one_short_line():
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown(list(range(1000)))) == 60
    assert some_of(range(20), 3) == "0, 1, 2 and 17 more"
    assert shown("\ud800") == r"'\ud800'"
    assert str(DataError("a\nb\ud800")) == "a b\ufffd"
