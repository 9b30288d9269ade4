"""Follows the README as a new user does: from a folder of images to masks from the C++ program."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROGRAM

from yolact import cli
from yolact.config import PRESETS, Anchors, get_preset
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import segment_all
from yolact.evaluation.scores import score
from yolact.models.detector import Detector
from yolact.models.yolact import Yolact

TINY = replace(
    get_preset("yolact_shapes"),
    name="tiny",
    backbone="shufflenet_v2_x0_5",
    image_size=128,
    anchors=Anchors(scales=((12,), (22,), (40,), (66,), (100,))),
    fpn_channels=48,
    num_prototypes=8,
)
BAR = 10.0  # of mask AP50; an untrained network stays below 1


def yolact(*arguments) -> None:
    """Runs the command in this process, which knows the preset `TINY`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["yolact", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code, arguments


@pytest.mark.skipif(not PROGRAM.exists(), reason="the C++ side is not built: make cpp")
def test_from_a_folder_of_images_to_masks_without_python(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, TINY.name, TINY)
    data, run = tmp_path / "mine", tmp_path / "run"
    yolact("data", "shapes", data, "--train", 2, "--val", 1, "--size", 128)
    # The network learns two images by heart, which shows that training works.
    annotations, images = data / "annotations" / "train.json", data / "train"
    yolact("data", "check", annotations, images, "--sheet", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()

    recipe = ["--optimizer", "adamw", "--learning-rate", 4e-3, "--schedule", "cosine", "--no-zoom-and-crop"]
    files = ["--train-annotations", annotations, "--train-images", images]
    files += ["--val-annotations", annotations, "--val-images", images]
    length = ["--epochs", 160, "--batch-size", 2, "--evaluate-every", 160, "--workers", 0]
    yolact("train", "--model", TINY.name, "--weights", "scratch", *files, "-o", run, *recipe, *length, "--cpu")
    evaluation_set = EvaluationSet.read(annotations, images)
    untrained = score(evaluation_set, segment_all(Detector(Yolact(TINY)).eval(), evaluation_set))
    assert untrained.mask.ap50 < 1

    weights, results = run / "best.safetensors", tmp_path / "results.json"
    files = ["--annotations", annotations, "--images", images]
    yolact("evaluate", "--model", weights, *files, "--results", results, "--report", tmp_path / "report.md")
    trained = score(evaluation_set, json.loads(results.read_text()))
    assert trained.mask.ap50 > BAR
    assert f"{trained.mask.ap50:.1f}" in (tmp_path / "report.md").read_text()

    model = tmp_path / "mine.pt"
    yolact("export", weights, "-o", model)
    capsys.readouterr()
    output = tmp_path / "out"
    command = [PROGRAM, model, images, "-o", output, "--json", output / "results.json", "--score-threshold", "0"]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert len(list(output.glob("*.png"))) == 2
    assert score(evaluation_set, entries_by_id(output / "results.json", annotations)).mask.ap50 == pytest.approx(
        trained.mask.ap50, abs=0.5
    )


def entries_by_id(path: Path, annotations: Path) -> list[dict]:
    """The program's results, with the image ids of the annotations instead of the images' numbers."""
    ids = {image["file_name"]: image["id"] for image in json.loads(annotations.read_text())["images"]}
    entries = json.loads(path.read_text())
    return [{**entry, "image_id": ids[Path(entry["image"]).name]} for entry in entries]
