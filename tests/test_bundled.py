"""Tests the model that is part of the package."""

import safetensors

import yolact
from yolact.config import get_preset
from yolact.data.shapes import CLASS_NAMES, write_dataset
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import segment_all
from yolact.evaluation.scores import score
from yolact.weights.download import fetch


def test_the_bundled_model_sees(tmp_path):
    detector = yolact.load("yolact_shapes")
    assert tuple(detector.class_names) == CLASS_NAMES
    # The model was not trained on these scenes: they have another seed and split.
    write_dataset(tmp_path / "fresh", train=0, val=24, seed=2)
    fresh = EvaluationSet.read(tmp_path / "fresh" / "annotations" / "val.json", tmp_path / "fresh" / "val")
    scores = score(fresh, segment_all(detector, fresh))
    assert scores.mask.ap50 > 50
    assert scores.mask.ap > 28


def test_its_file_is_small_and_holds_its_metadata():
    path = fetch(get_preset("yolact_shapes"))
    assert path.stat().st_size < 12e6
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["preset"] == "yolact_shapes"
    assert {"data", "command", "time", "evaluation", "licence"} <= metadata.keys()
