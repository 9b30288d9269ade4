"""Tests the evaluation: COCO's numbers, results files, pictures and speed."""

import json
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torch import Tensor

import yolact
from yolact.config import get_preset
from yolact.data.images import read_image
from yolact.data.shapes import write_dataset
from yolact.evaluation.commands import evaluate
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import detections_of, measure_speed, save_worst, segment_all, truth_of
from yolact.evaluation.results import Results
from yolact.evaluation.scores import score
from yolact.models.detections import Detections, EncodedDetections, mask_crops
from yolact.models.detector import Detector
from yolact.models.yolact import Yolact
from yolact.ops.reference import run_lengths
from yolact.segmenters import open_segmenter


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes"
    write_dataset(path, train=0, val=6, size=128)
    return path


@pytest.fixture(scope="module")
def shapes(folder) -> EvaluationSet:
    return EvaluationSet.read(folder / "annotations" / "val.json", folder / "val")


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Random weights, with a torchvision backbone."""
    torch.manual_seed(0)
    preset = get_preset("yolact_shapes")
    preset = replace(preset, backbone="shufflenet_v2_x0_5", image_size=64, fpn_channels=16, num_prototypes=4)
    detector = Detector(Yolact(preset)).eval()
    detector.max_detections = 20
    return detector


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.pt"
    yolact.export(detector, path)
    return path


class Oracle:
    """A detector that recognises the image and returns its ground truth, or what `change` makes of it."""

    def __init__(self, evaluation_set: EvaluationSet, change=lambda detections: detections):
        self.class_names = list(evaluation_set.class_names)
        self._known = [
            (read_image(path), change(dense(truth_of(evaluation_set, image_id))))
            for image_id, path in zip(evaluation_set.image_ids, evaluation_set.paths, strict=True)
        ]

    def __call__(self, image: Tensor) -> Detections:
        return next(detections for known, detections in self._known if known.equal(image))

    def forward_encoded(self, images: list[Tensor]) -> list[EncodedDetections]:
        return [encoded(self(image)) for image in images]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def precision(self) -> str:
        return "fp32"

    def stages(self) -> None:
        return None


def dense(detections: EncodedDetections) -> Detections:
    masks = torch.zeros(len(detections.labels), detections.height, detections.width, dtype=torch.bool)
    for plane, (x1, y1, mask) in zip(masks, mask_crops(detections), strict=True):
        plane[y1 : y1 + mask.shape[0], x1 : x1 + mask.shape[1]] = torch.from_numpy(mask)
    return Detections(detections.boxes, detections.scores, detections.labels, masks, detections.mask_scores)


def encoded(detections: Detections) -> EncodedDetections:
    boxes, scores, labels, masks, mask_scores = detections
    height, width = masks.shape[1:]
    return EncodedDetections(boxes, scores, labels, mask_scores, height, width, *run_lengths(masks))


def test_the_truth_scores_full_marks(shapes):
    scores = score(shapes, segment_all(Oracle(shapes), shapes))
    assert scores.mask.ap == pytest.approx(100)
    assert scores.box.ap50 == pytest.approx(100)
    assert set(scores.quality.values()) == {1.0}
    assert sum(of_class.objects for of_class in scores.classes) == len(shapes.truth.anns)
    assert all(of_class.mask_ap == (pytest.approx(100) if of_class.objects else -1) for of_class in scores.classes)
    assert scores.mask.table().splitlines()[0] == (
        " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000"
    )


def test_the_table_is_the_one_that_pycocotools_prints(shapes, capsys):
    from pycocotools.cocoeval import COCOeval

    def worse(detections: Detections) -> Detections:
        return Detections(
            detections.boxes + 4,
            detections.scores,
            detections.labels,
            detections.masks.roll(4, 2),
            torch.rand(len(detections.scores)),
        )

    torch.manual_seed(0)
    results = segment_all(Oracle(shapes, worse), shapes)
    scores = score(shapes, results)
    assert 5 < scores.mask.ap < 95
    segmentations = [{key: value for key, value in entry.items() if key != "bbox"} for entry in results]
    evaluation = COCOeval(shapes.truth, shapes.truth.loadRes(segmentations), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    capsys.readouterr()
    evaluation.summarize()
    assert capsys.readouterr().out.splitlines() == scores.mask.table().splitlines()


def test_images_in_small_groups_score_what_pycocotools_says_of_all(shapes, monkeypatch):
    """Equal to the last bit, with ties, crowds, missed objects, and images without objects or detections."""
    from pycocotools.cocoeval import COCOeval

    def worse(detections: Detections) -> Detections:
        count = len(detections.scores)
        several = [torch.cat((column, column, column)) for column in detections]
        shift = torch.randint(-9, 9, (3 * count, 2))
        masks = torch.stack(
            [mask.roll((int(y), int(x)), (0, 1)) for mask, (x, y) in zip(several[3], shift, strict=True)]
        )
        scores = (torch.rand(3 * count) * 4).round() / 4
        labels = torch.where(torch.rand(3 * count) < 0.8, several[2], several[2].roll(1))
        return Detections(several[0] + shift.repeat(1, 2), scores, labels, masks, scores.flip(0))

    torch.manual_seed(0)
    entries = list(segment_all(Oracle(shapes, worse), shapes))
    entries = [entry for entry in entries if entry["image_id"] != shapes.image_ids[3]]
    truth = shapes.truth
    crowd = truth.imgToAnns[shapes.image_ids[0]][0]
    crowd["iscrowd"] = 1
    try:
        for kind, dropped in (("segm", "bbox"), ("bbox", "segmentation")):
            detections = [{key: value for key, value in entry.items() if key != dropped} for entry in entries]
            if kind == "bbox":
                detections = [{**entry, "score": entry["box_score"]} for entry in detections]
            evaluation = COCOeval(truth, truth.loadRes(detections), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            expected = [value * 100 if value >= 0 else -1.0 for value in evaluation.stats]
            assert 0 < expected[0] < 95
            for together in (1, 4, 100):
                monkeypatch.setattr("yolact.evaluation.scores._IMAGES_AT_ONCE", together)
                scores = score(shapes, entries)
                assert list(asdict(scores.mask if kind == "segm" else scores.box).values()) == expected
    finally:
        crowd["iscrowd"] = 0


def test_results_are_kept_by_image_and_written_as_one_array(tmp_path):
    entries = [{"image_id": i % 3, "score": i / 7, "segmentation": {"counts": '}{][\\"é'}} for i in range(8)]
    results = Results(entries)
    assert len(results) == 8
    assert results.of_image(1) == entries[1::3]
    assert results.of_image(5) == []
    assert list(results) == entries[0::3] + entries[1::3] + entries[2::3]
    results.add([])
    results.add([{"image_id": 5}])
    assert results.of_image(5) == [{"image_id": 5}]
    with pytest.raises(ValueError, match="image 1 were added before"):
        results.add(entries[1:2])
    results.write(tmp_path / "results.json")
    assert (tmp_path / "results.json").read_text() == json.dumps(list(results))
    Results().write(tmp_path / "none.json")
    assert (tmp_path / "none.json").read_text() == "[]"


def test_memory_does_not_grow_with_the_detections(shapes):
    """Measured by Python's allocator. The limit is far below the size of one entry; an image has about 80 entries."""
    many = replace(shapes, image_ids=tuple(range(300)), paths=shapes.paths[:1] * 300)
    counts = torch.tensor([0, 5, 128 * 128 - 5])
    actual = EncodedDetections(
        torch.rand(80, 4), torch.rand(80), torch.zeros(80, dtype=torch.long), torch.rand(80), 128, 128,
        counts.repeat(80), torch.arange(81) * 3,
    )  # fmt: skip

    class Fake(Oracle):
        def __init__(self):
            self.class_names = list(shapes.class_names)

        def forward_encoded(self, images: list[Tensor]) -> list[EncodedDetections]:
            return [actual]

    held = []

    def seen() -> bool:
        held.append(tracemalloc.get_traced_memory()[0])
        return True

    tracemalloc.start()
    try:
        results = segment_all(Fake(), many, seen)
    finally:
        tracemalloc.stop()
    assert len(results) == 300 * 80
    assert held[-1] - held[99] < 200 * 1000  # bytes


def test_no_detections_score_zero(shapes):
    scores = score(shapes, [])
    assert scores.mask.ap == scores.box.ap == 0
    assert set(scores.quality.values()) == {0.0}


def test_only_the_images_of_the_part_count(shapes):
    part = shapes.part(slice(1, None, 2))
    assert len(part.image_ids) == 3
    assert score(part, segment_all(Oracle(shapes), part)).mask.ap == pytest.approx(100)


def test_classes_are_found_by_name(shapes):
    names = ["nothing", *reversed(shapes.class_names)]
    assert shapes.categories_of(names) == [None, *reversed(shapes.category_ids)]
    assert shapes.categories_of([f"class {i + 1}" for i in range(len(names) - 1)]) == list(shapes.category_ids)
    with pytest.raises(ValueError, match="another data set"):
        shapes.categories_of(["cat", "dog"])


def test_annotations_that_leave_fields_out(folder, tmp_path):
    content = json.loads((folder / "annotations" / "val.json").read_text())
    for annotation in content["annotations"]:
        for key in ("area", "bbox", "iscrowd"):
            annotation.pop(key, None)
    (tmp_path / "val.json").write_text(json.dumps(content))
    evaluation_set = EvaluationSet.read(tmp_path / "val.json", folder / "val")
    assert score(evaluation_set, segment_all(Oracle(evaluation_set), evaluation_set)).box.ap == pytest.approx(100)


def test_results_without_ground_truth(folder, shapes, tmp_path):
    content = json.loads((folder / "annotations" / "val.json").read_text())
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    evaluation_set = EvaluationSet.read(tmp_path / "test.json", folder / "val")
    assert evaluation_set.truth is None
    results = segment_all(Oracle(shapes), evaluation_set)
    assert len(results) == len(shapes.truth.anns)
    with pytest.raises(ValueError, match="no ground truth"):
        score(evaluation_set, results)


def test_results_become_detections_again(shapes):
    image_id = shapes.image_ids[0]
    detections = truth_of(shapes, image_id)
    again = detections_of(yolact.coco_results(detections, image_id, shapes.category_ids), shapes.category_ids)
    annotations = [entry for entry in shapes.truth.anns.values() if entry["image_id"] == image_id]
    assert len(annotations) > 1
    assert np.array_equal(
        dense(again).masks.numpy(), np.stack([shapes.truth.annToMask(entry) for entry in annotations])
    )
    assert again.counts.equal(detections.counts)
    assert again.offsets.equal(detections.offsets)
    assert again.labels.equal(detections.labels)
    torch.testing.assert_close(again.boxes, detections.boxes)
    assert detections_of([], shapes.category_ids).offsets.tolist() == [0]


def test_run_lengths_and_masks_are_the_same_results(detector):
    image = torch.randint(0, 256, (90, 70, 3), dtype=torch.uint8)
    masks, runs = detector(image), detector.forward_encoded([image])[0]
    categories = [None if label == 7 else label + 1 for label in range(10)]
    expected = yolact.coco_results(masks, 3, categories)
    assert 0 < len(expected) < len(masks.labels)
    assert yolact.coco_results(runs, 3, categories) == expected
    areas = [rle.area(entry["segmentation"]) for entry in yolact.coco_results(runs, 3)]
    assert areas == masks.masks.sum(dim=(1, 2)).tolist()


def test_the_worst_images_are_drawn(shapes, tmp_path):
    results = segment_all(Oracle(shapes), shapes)
    worst = shapes.image_ids[2]
    results = Results(entry for entry in results if entry["image_id"] != worst)
    pictures = save_worst(shapes, results, score(shapes, results).quality, 2, tmp_path / "worst")
    assert [path.exists() for path in pictures] == [True, True]
    assert pictures[0].name == f"001_0.00_{worst}.png"
    assert read_image(pictures[0]).shape == (128, 260, 3)


def test_an_exported_model_agrees_with_the_detector(shapes, detector, exported):
    part = shapes.part(slice(2))
    detector = detector.optimize()
    results = list(segment_all(detector, part))
    assert results
    expected = [
        entry
        for image_id, path in zip(part.image_ids, part.paths, strict=True)
        for entry in yolact.coco_results(detector(read_image(path)), image_id, part.category_ids)
    ]
    assert results == expected
    assert list(segment_all(open_segmenter(exported), part)) == results


def test_speed_is_measured(shapes, detector):
    speed = measure_speed(detector, shapes, images=2, warm_up=1)
    assert speed.network > 0 < speed.end_to_end
    assert measure_speed(Oracle(shapes), shapes, images=2, warm_up=0).network is None


def test_the_command(folder, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("yolact.evaluation.commands.open_segmenter", lambda *arguments: Oracle(shapes))
    files = {"results": tmp_path / "results.json", "report": tmp_path / "report.md"}
    evaluate(
        "any", folder / "annotations" / "val.json", folder / "val",
        limit=4, worst=1, output=tmp_path / "worst", speed=True, **files,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count("maxDets=100 ] = 1.000") >= 6
    assert "end to end" in printed
    assert {entry["image_id"] for entry in json.loads(files["results"].read_text())} == set(shapes.image_ids[:4])
    assert "| mask | 100.0 |" in files["report"].read_text()


def test_boxes_and_masks_are_ranked_by_their_own_scores(shapes):
    """Half of the detections are wrong. The box scores rank them low, and the mask scores rank them high."""

    def doubled(detections: Detections) -> Detections:
        count = len(detections.scores)
        wrong = Detections(
            detections.boxes + 60, detections.scores, detections.labels, detections.masks.flip(2), detections.scores
        )
        both = Detections(*(torch.cat(columns) for columns in zip(detections, wrong, strict=True)))
        right = torch.arange(2 * count) < count
        return both._replace(scores=torch.where(right, 0.9, 0.1), mask_scores=torch.where(right, 0.1, 0.9))

    results = segment_all(Oracle(shapes, doubled), shapes)
    assert all(entry["box_score"] + entry["score"] == pytest.approx(1) for entry in results)
    scores = score(shapes, results)
    assert scores.box.ap == pytest.approx(100)
    assert scores.mask.ap < 60
    again = detections_of([entry for entry in results if entry["image_id"] == shapes.image_ids[0]], shapes.category_ids)
    assert (again.scores.diff() <= 0).all()
    assert (again.mask_scores.diff() >= 0).all()
    without = [{key: value for key, value in entry.items() if key != "box_score"} for entry in results]
    assert score(shapes, without).box.ap < 60  # results of other programs have one score
