"""Tests the `yolact` command as a user runs it."""

import json
import runpy
import sys

import pytest
import torch
from conftest import PHOTOS, ROOT

import yolact


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", PHOTOS[0], "--model", "yolact_resnet49"), "neither a file nor a preset"),
        (("predict", PHOTOS[0], "--model", "missing.pt"), "missing.pt: there is no such file"),
        (("predict", PHOTOS[0], "--model", PHOTOS[0]), "neither a safetensors nor a PyTorch file"),
        (("export", "missing.pth", "-o", "model.pt"), "missing.pth: there is no such file"),
        (("benchmark", "missing.pt"), "missing.pt: there is no such file"),
        (("benchmark", PHOTOS[0]), "neither a safetensors nor a PyTorch file"),
        (("benchmark", "yolact_shapes", "--image", "missing.png"), "missing.png: there is no such file"),
        (("benchmark", "yolact_shapes", "--json", "none/x.json"), "the folder none does not exist"),
        (("benchmark", "yolact_shapes", "--device", "tpu"), "device"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(command, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*arguments)
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without CUDA")
def test_the_error_without_a_cuda_device(command, small_export, tmp_path):
    code, _, err = command("predict", PHOTOS[0], "--model", small_export, "--device", "cuda", "-o", tmp_path)
    assert code == 1
    assert "finds no CUDA device" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", PHOTOS[0]),
        ("predict", "--model", "yolact_resnet50"),
        ("predict", PHOTOS[0], "--model", "yolact_resnet50", "--score-threshold", "2"),
        ("predict", PHOTOS[0], "--model", "yolact_resnet50", "--no-such-option"),
        ("benchmark",),
        ("benchmark", "yolact_shapes", "--batch", "0"),
        ("benchmark", "yolact_shapes", "--rounds", "0"),
        ("no-such-command",),
    ],
)
def test_wrong_usage_is_exit_code_2(command, arguments):
    assert command(*arguments)[0] == 2


def test_benchmark_of_an_exported_model(command, small_export, tmp_path):
    figures = tmp_path / "figures.json"
    arguments = ("--image", PHOTOS[2], "--rounds", 1, "--batch", 1, "--json", figures)
    code, out, err = command("benchmark", small_export, *arguments)
    assert (code, err) == (0, "")
    height, width = yolact.read_image(PHOTOS[2]).shape[:2]
    assert f"{width}×{height}, 100 detections" in out
    rows = json.loads(figures.read_text())["results"]
    parts = ["preprocess", "network", "postprocess", "from pixels to masks, Python"]
    if "The C++ runtime is left out" not in out:
        parts.append("from pixels to masks, C++")
    assert [row["part"] for row in rows] == parts
    assert all(part in out for part in parts)
    assert {row["batch"] for row in rows} == {1}
    assert all((row["images_per_second"] is None) == (row["part"] in ("preprocess", "postprocess")) for row in rows)
    masks = 100 * height * width / 2**20
    memory = {row["part"]: row["memory"] for row in rows}
    assert memory["preprocess"] < masks < memory["postprocess"]
    assert all(memory[part] > masks for part in parts[3:])


def test_benchmark_of_a_preset(command, tmp_path):
    figures = tmp_path / "figures.json"
    arguments = ("--rounds", 1, "--batch", 1, "--batch", 2, "--no-memory", "--json", figures)
    code, _, err = command("benchmark", "yolact_shapes", *arguments)
    assert (code, err) == (0, "")
    rows = json.loads(figures.read_text())["results"]
    parts = ["preprocess", "network", "postprocess", "from pixels to masks, Python"]
    assert [(row["batch"], row["part"]) for row in rows] == [(batch, part) for batch in (1, 2) for part in parts]
    assert {row["precision"] for row in rows} == {"fp32"}


def test_json_of_a_benchmark_on_stdout(command, small_export):
    code, out, err = command("benchmark", small_export, "--rounds", 1, "--no-memory", "--json", "-")
    assert code == 0
    assert json.loads(out)["results"]
    assert "median ms" in err


def test_export(command, small_detector, tmp_path):
    weights, model = tmp_path / "mine.safetensors", tmp_path / "model.pt"
    yolact.save_weights(small_detector.model, weights, small_detector.class_names)
    code, out, _ = command("export", weights, "-o", model)
    assert code == 0
    assert "model.pt" in out
    assert yolact.load_exported(model).class_names == small_detector.class_names


def test_the_export_script_does_the_same(small_detector, tmp_path, monkeypatch):
    weights, model = tmp_path / "mine.safetensors", tmp_path / "model.pt"
    yolact.save_weights(small_detector.model, weights, small_detector.class_names)
    monkeypatch.setattr(sys, "argv", ["export.py", str(weights), str(model)])
    runpy.run_path(str(ROOT / "scripts" / "export.py"), run_name="__main__")
    assert yolact.load_exported(model).class_names == small_detector.class_names


def test_convert(command, tmp_path):
    torch.manual_seed(0)
    model = yolact.build_model("yolact_resnet50", num_classes=2)
    yolact.save_weights(model, tmp_path / "mine.safetensors", ["cat", "dog"])
    out = tmp_path / "yolact_resnet50_1_2.pth"
    code, said, _ = command("convert", tmp_path / "mine.safetensors", out, "--to", "original")
    assert (code, said) == (0, f"{out}: yolact_resnet50 in the original's layout\n")
    assert torch.load(out, weights_only=True)["prediction_layers.0.bbox_layer.weight"].equal(model.head.boxes.weight)
    code, _, err = command("convert", tmp_path / "none.pth", out, "--to", "yolact")
    assert code == 1
    assert "there is no such file" in err
    assert command("convert", out, out, "--to", "mmdet")[0] == 2


def test_models_lists_every_preset(command):
    code, out, _ = command("models")
    assert code == 0
    for name in yolact.list_models():
        assert name in out
    assert "29.8 test-dev" in out
