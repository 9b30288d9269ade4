"""Tests the `yolact` command as a user runs it."""

import json
import runpy
import sys

import pytest
import torch
from conftest import PHOTOS, ROOT, small_model
from test_images import broken_files
from torchvision.io import decode_image

import yolact
from yolact import cli
from yolact.export import script
from yolact.models.detector import Detector
from yolact.version import FILE_FORMAT


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `yolact` with arguments and returns its exit code, standard output and standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["yolact", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


def test_predict_images_and_folders(command, small_export, small_detector, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(PHOTOS):
        (folder / f"{number}{photo.suffix}").write_bytes(photo.read_bytes())
    (folder / "notes.txt").write_text("not looked at")
    results = tmp_path / "results.json"
    code, out, err = command(
        "predict", folder, PHOTOS[2], "--model", small_export, "-o", tmp_path / "out", "--json", results
    )
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["0.png", "1.png", "2.png", "cat.png"]
    image = yolact.read_image(PHOTOS[2])
    assert decode_image(str(tmp_path / "out" / "2.png")).shape == (3, *image.shape[:2])
    small = small_detector.optimize()(image)
    entries = [entry for entry in json.loads(results.read_text()) if entry["image_id"] == 4]
    expected = [entry for entry in yolact.coco_results(small, 4) if entry["score"] > cli.DEFAULT_SCORE_THRESHOLD]
    assert len(entries) == len(expected) > 0
    for entry, wanted in zip(entries, expected, strict=True):
        assert entry.pop("image") == str(PHOTOS[2])
        assert entry.pop("category_name") == small_detector.class_names[wanted["category_id"] - 1]
        assert entry == wanted


def test_predict_options(command, small_export, tmp_path):
    results = tmp_path / "new" / "results.json"
    base = ("predict", PHOTOS[0], "--model", small_export, "-o", tmp_path, "--json", results)
    command(*base, "--max-detections", 3, "--score-threshold", 0)
    assert len(json.loads(results.read_text())) == 3
    code, out, _ = command(*base, "--score-threshold", 1)
    assert code == 0
    assert "0 detections" in out
    assert json.loads(results.read_text()) == []


def test_predict_without_pictures(command, small_export, tmp_path):
    base = ("predict", *PHOTOS, "--model", small_export)
    command(*base, "-o", tmp_path / "out", "--json", tmp_path / "with.json")
    code, out, err = command(*base, "-o", tmp_path / "none", "--json", tmp_path / "without.json", "--no-pictures")
    assert (code, err) == (0, "")
    assert [line.startswith(f"{photo}: ") for photo, line in zip(PHOTOS, out.splitlines(), strict=True)] == [True] * 3
    assert not (tmp_path / "none").exists()
    text = (tmp_path / "without.json").read_text()
    assert len(json.loads(text)) > 10
    assert text == (tmp_path / "with.json").read_text()
    assert command(*base, "--no-pictures")[0] == 2


def test_predict_with_a_checkpoint_file(command, small_detector, tmp_path):
    weights = tmp_path / "mine.safetensors"
    yolact.save_weights(small_detector.model, weights, small_detector.class_names)
    code, _, _ = command("predict", PHOTOS[2], "--model", weights, "-o", tmp_path)
    assert code == 0
    assert (tmp_path / "cat.png").is_file()


def test_predict_in_another_precision(command, small_export, tmp_path):
    texts = {}
    for precision in ("fp32", "bf16"):
        results = tmp_path / f"{precision}.json"
        base = ("predict", PHOTOS[2], "--model", small_export, "--no-pictures", "--json", results)
        assert command(*base, "--precision", precision)[0] == 0
        texts[precision] = json.loads(results.read_text())
    assert texts["fp32"] != texts["bf16"]
    assert texts["bf16"][0]["box_score"] == pytest.approx(texts["fp32"][0]["box_score"], abs=0.02)


def test_bad_images_are_listed_and_good_ones_processed(command, small_export, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    broken = broken_files(folder)
    (folder / "good.png").write_bytes(PHOTOS[2].read_bytes())
    results = tmp_path / "results.json"
    code, out, err = command("predict", folder, "--model", small_export, "-o", tmp_path / "out", "--json", results)
    assert code == 1
    assert len(out.splitlines()) == 1
    lines = err.splitlines()
    present = [path for path, _ in broken.values() if path.exists()]
    assert len(lines) == len(present) + 1
    assert all(any(str(path) in line for line in lines) for path in present)
    assert f"{len(present)} of {len(present) + 1} images failed" in lines[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]
    assert {entry["image"] for entry in json.loads(results.read_text())} == {str(folder / "good.png")}


def test_an_output_that_is_not_finite_is_one_line_per_image(command, tmp_path):
    detector = Detector(small_model())
    with torch.no_grad():
        detector.model.head.logits.bias.fill_(float("nan"))
    model = tmp_path / "model.pt"
    script(detector).save(str(model), _extra_files={"yolact_format": str(FILE_FORMAT)})
    code, _, err = command("predict", PHOTOS[2], "--model", model, "-o", tmp_path / "out")
    assert code == 1
    reason = "the network's output is not finite (NaN or infinity): check the weights and the precision"
    assert err.splitlines()[0] == f"yolact: {PHOTOS[2]}: {reason}"
    assert len(err.splitlines()) == 2


def test_pictures_with_equal_names_overwrite_neither_each_other_nor_an_input(command, small_export, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cat.png").write_bytes(PHOTOS[2].read_bytes())
    code, _, _ = command("predict", tmp_path / "a", tmp_path / "b", "--model", small_export, "-o", tmp_path / "out")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cat.png", "cat_1.png"]
    code, _, err = command("predict", tmp_path / "a", "--model", small_export, "-o", tmp_path / "a")
    assert code == 1
    assert "is an input" in err
    assert (tmp_path / "a" / "cat.png").read_bytes() == PHOTOS[2].read_bytes()
    cat = tmp_path / "a" / "cat.png"
    for taken in (cat, small_export):
        code, _, err = command("predict", cat, "--model", small_export, "--no-pictures", "--json", taken)
        assert (code, err) == (1, f"yolact: {taken} is an input: choose another place for the output\n")


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


def test_an_empty_folder_is_an_error(command, small_export, tmp_path):
    code, _, err = command("predict", tmp_path, "--model", small_export)
    assert code == 1
    assert "no image in this folder" in err


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
