"""Evaluation: COCO's numbers, results files, and segmenters of every kind."""

import json
from dataclasses import replace
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
from yolact.evaluation.evaluate import (
    detections_of,
    measure_speed,
    open_segmenter,
    save_worst,
    segment_all,
    truth_of,
)
from yolact.evaluation.results import Results
from yolact.evaluation.scores import score
from yolact.models.detector import Detections, Detector
from yolact.models.yolact import Yolact


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
    found = Detector(Yolact(preset)).eval()
    found.max_detections = 20
    return found


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.pt"
    yolact.export(detector, path)
    return path


class Oracle:
    """Finds the truth, or what `change` makes of it, by recognising the image."""

    def __init__(self, evaluation_set: EvaluationSet, change=lambda detections: detections):
        self.class_names = list(evaluation_set.class_names)
        self._known = [
            (read_image(path), change(truth_of(evaluation_set, image_id)))
            for image_id, path in zip(evaluation_set.image_ids, evaluation_set.paths, strict=True)
        ]

    def __call__(self, image: Tensor) -> Detections:
        return next(found for known, found in self._known if known.equal(image))


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

    def worse(found: Detections) -> Detections:
        return Detections(
            found.boxes + 4, found.scores, found.labels, found.masks.roll(4, 2), torch.rand(len(found.scores))
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


def test_nothing_found_scores_nothing(shapes):
    scores = score(shapes, Results())
    assert scores.mask.ap == scores.box.ap == 0
    assert set(scores.quality.values()) == {0.0}


def test_images_of_a_part_alone_count(shapes):
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
    found = truth_of(shapes, image_id)
    again = detections_of(yolact.coco_results(found, image_id, shapes.category_ids), shapes.category_ids)
    assert again.masks.equal(found.masks)
    assert again.labels.equal(found.labels)
    torch.testing.assert_close(again.boxes, found.boxes)


def test_results_take_arrays(shapes):
    found = truth_of(shapes, shapes.image_ids[0])
    arrays = Detections(*(column.numpy() for column in found))
    assert yolact.coco_results(arrays, 1) == yolact.coco_results(found, 1)
    assert rle.area(yolact.coco_results(arrays, 1)[0]["segmentation"]) == np.asarray(found.masks[0]).sum()


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
    results = list(segment_all(detector, part))
    assert results
    assert list(segment_all(open_segmenter(exported), part)) == results


def test_the_runtime_agrees_with_the_detector(shapes, detector, exported):
    pytest.importorskip("yolact._runtime", reason="the C++ runtime's binding is not built")
    runtime = open_segmenter(exported, runtime=True)
    image = read_image(shapes.paths[0])
    ours, theirs = detector(image), runtime(image)
    assert runtime.class_names == detector.class_names
    assert theirs.labels.tolist() == ours.labels.tolist()
    torch.testing.assert_close(theirs.boxes, ours.boxes, atol=1e-3, rtol=0)
    assert (theirs.masks == ours.masks).float().mean() > 0.999


def test_the_runtime_needs_an_exported_model(tmp_path):
    with pytest.raises(ValueError, match="exported models only"):
        open_segmenter(tmp_path / "weights.safetensors", runtime=True)


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
    """Half of the detections are wrong; the boxes' scores know it, the masks' scores say the contrary."""

    def doubled(found: Detections) -> Detections:
        count = len(found.scores)
        wrong = Detections(found.boxes + 60, found.scores, found.labels, found.masks.flip(2), found.scores)
        both = Detections(*(torch.cat(columns) for columns in zip(found, wrong, strict=True)))
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
    without = Results({key: value for key, value in entry.items() if key != "box_score"} for entry in results)
    assert score(shapes, without).box.ap < 60  # results of other programs have one score
