"""Tests `yolact predict` as a user runs it."""

import json
import os
import platform
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import PHOTOS, small_model
from PIL import Image
from test_images import broken_files
from torchvision.io import decode_image

import yolact
from yolact import prediction
from yolact.export import script
from yolact.models.detector import Detector
from yolact.version import FILE_FORMAT


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
    expected = [entry for entry in yolact.coco_results(small, 4) if entry["score"] > prediction.DEFAULT_SCORE_THRESHOLD]
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


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is about x86-64")
def test_a_slow_precision_is_named(command, small_export, tmp_path):
    base = ("predict", PHOTOS[2], "--model", small_export, "-o", tmp_path / "out", "--precision")
    assert command(*base, "bf16")[2] == ""
    code, _, err = command(*base, "fp16")
    assert code == 0
    assert err.startswith(
        "yolact: warning: fp16 is slow on a CPU, where an image took more than ten times as long as in fp32"
    )


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


def test_an_output_that_is_not_finite_is_one_line(command, tmp_path):
    detector = Detector(small_model())
    with torch.no_grad():
        detector.model.head.logits.bias.fill_(float("nan"))
    model = tmp_path / "model.pt"
    script(detector.optimize()).save(str(model), _extra_files={"yolact_format": str(FILE_FORMAT)})
    code, _, err = command("predict", PHOTOS[2], "--model", model, "-o", tmp_path / "out")
    assert code == 1
    reason = "the network's output is not finite (NaN or infinity): check the weights and the precision"
    assert err == f"yolact: {PHOTOS[2]}: {reason}\n"


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


def test_an_empty_folder_is_an_error(command, small_export, tmp_path):
    code, _, err = command("predict", tmp_path, "--model", small_export)
    assert code == 1
    assert "no image in this folder" in err


NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:1] err == 0. DefaultCPUAllocator: can't allocate memory")


def copies(folder, *names) -> list:
    """Copies of a photograph."""
    folder.mkdir()
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(PHOTOS[2].read_bytes())
    return paths


def test_a_picture_that_cannot_be_written_does_not_end_the_run(command, small_export, tmp_path):
    images = copies(tmp_path / "photos", "a.png", "b.png", "c.png")
    output, results = tmp_path / "out", tmp_path / "results.json"
    (output / "b.png").mkdir(parents=True)
    code, out, err = command("predict", *images, "--model", small_export, "-o", output, "--json", results)
    assert code == 1
    assert [line.partition(": ")[0] for line in out.splitlines()] == [str(images[0]), str(images[2])]
    assert err.splitlines() == [
        f"yolact: {output / 'b.png'}: cannot be written: this is a folder: give the name of a file in it",
        "yolact: 1 of 3 images failed, the others are done",
    ]
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "b.png", "c.png"]
    assert {entry["image_id"] for entry in json.loads(results.read_text())} == {1, 3}


@pytest.mark.parametrize(
    "error", [MemoryError(), NO_MEMORY, ValueError("odd\ndetails"), OSError(5, "Input/output error")]
)
def test_an_error_while_drawing_does_not_end_the_run(error, command, small_export, tmp_path, monkeypatch):
    images = copies(tmp_path / "photos", "a.png", "b.png")
    drawn = []

    def draw(image, *others):
        drawn.append(image)
        if len(drawn) == 1:
            raise error
        return image.permute(2, 0, 1)

    monkeypatch.setattr(prediction, "draw", draw)
    code, _, err = command("predict", *images, "--model", small_export, "-o", tmp_path / "out")
    assert code == 1
    no_memory = isinstance(error, MemoryError) or error is NO_MEMORY
    reason = "there is not enough memory for this image" if no_memory else str(error)
    assert err.splitlines() == [
        f"yolact: {images[0]}: {reason.splitlines()[0]}",
        "yolact: 1 of 2 images failed, the others are done",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", b"caf\xe9.png"), ("ascii", b"caf\\udce9.png")])
def test_a_file_name_that_is_not_utf8(encoding, printed, command, small_export, tmp_path, monkeypatch):
    (image,) = copies(tmp_path / "photos", os.fsdecode(b"caf\xe9.png"))
    results, output = tmp_path / "results.json", tmp_path / "printed"
    with output.open("w", encoding=encoding) as file:
        monkeypatch.setattr(sys, "stdout", file)
        code, _, err = command("predict", image, "--model", small_export, "-o", tmp_path / "out", "--json", results)
    assert (code, err) == (0, "")
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"caf\xe9.png"]
    assert printed in output.read_bytes()
    assert {entry["image"] for entry in json.loads(results.read_text())} == {f"{tmp_path}/photos/caf\ufffd.png"}


def test_a_pipe_among_the_images_is_not_waited_for(command, small_export, tmp_path):
    folder = tmp_path / "photos"
    copies(folder, "a.png")
    os.mkfifo(folder / "b.png")
    code, out, err = command("predict", folder, "--model", small_export, "-o", tmp_path / "out")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert f"yolact: {folder / 'b.png'}: this is not a regular file" in err
    code, _, err = command("predict", PHOTOS[2], "--model", folder / "b.png", "-o", tmp_path / "out")
    assert (code, err) == (1, f"yolact: {folder / 'b.png'}: this is not a regular file\n")


def test_the_pictures_are_written_although_nobody_reads_the_output(command, small_export, tmp_path, monkeypatch):
    images = copies(tmp_path / "photos", "a.png", "b.png")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        code, _, err = command("predict", *images, "--model", small_export, "-o", tmp_path / "out")
    assert (code, err) == (1, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_results_on_standard_output(command, small_export, tmp_path, monkeypatch):
    """They follow what was printed before, also where standard output is a file."""
    printed = tmp_path / "printed"
    with printed.open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        target = f"/dev/fd/{file.fileno()}"
        base = ("predict", PHOTOS[2], "--model", small_export, "--no-pictures", "--json", target)
        assert command(*base)[0] == 0
    first, _, rest = printed.read_text().partition("\n")
    assert first.startswith(f"{PHOTOS[2]}: ")
    assert len(json.loads(rest)) == int(first.split(": ")[1].split()[0])


def test_results_that_cannot_be_written_are_refused_before_the_first_image(command, small_export, tmp_path):
    base = ("predict", PHOTOS[2], "--model", small_export, "-o", tmp_path / "out", "--json")
    code, out, err = command(*base, tmp_path)
    assert (code, out) == (1, "")
    assert err == f"yolact: {tmp_path}: cannot be written: this is a folder: give the name of a file in it\n"


def test_dark_16_bit_pictures_are_named_or_scaled(command, small_export, tmp_path):
    """A photograph of 12 bits in a file of 16 bits is found when it is scaled, as if it had 8 bits."""
    grey = np.asarray(Image.open(PHOTOS[2]).convert("L"))
    bright, dark = tmp_path / "bright.png", tmp_path / "dark.png"
    Image.fromarray((grey.astype(np.uint32) * 4095 // grey.max()).astype(np.uint16)).save(dark)
    Image.fromarray(np.round(grey * (255 / grey.max())).astype(np.uint8)).save(bright)
    counts = {}
    for name, source, options in (("high", dark, ()), ("scale", dark, ("--16-bit", "scale")), ("8", bright, ())):
        results = tmp_path / f"{name}.json"
        base = ("predict", source, "--model", small_export, "--no-pictures", "--json", results)
        code, _, err = command(*base, *options)
        assert code == 0
        counts[name] = len(json.loads(results.read_text()))
        assert err == (
            f"yolact: warning: dark 16-bit picture: 1 picture, for example {dark}: its values have 12 of 16 bits, so "
            "that its brightest pixel is 15 of 255 – read with its high bytes, unless --16-bit scale is given\n"
            if name == "high"
            else ""
        )
    assert counts["scale"] == pytest.approx(counts["8"], abs=3)


def test_exif_orientations_are_ignored_on_demand(command, small_export, tmp_path):
    photo = Image.open(PHOTOS[0])
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    for options, size in (((), photo.size[::-1]), (("--ignore-exif",), photo.size)):
        results = tmp_path / "results.json"
        base = ("predict", tmp_path / "turned.jpg", "--model", small_export, "-o", tmp_path / "out")
        assert command(*base, "--json", results, *options)[0] == 0
        assert Image.open(tmp_path / "out" / "turned.png").size == size
        assert json.loads(results.read_text())[0]["segmentation"]["size"] == list(size[::-1])


def test_a_very_large_image_is_read_without_a_warning(command, small_export, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow warns above it, and refuses twice as many
    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code, _, err = command("predict", tmp_path / "large.png", "--model", small_export, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert not [warning for warning in caught if issubclass(warning.category, Image.DecompressionBombWarning)]
