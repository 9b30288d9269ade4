"""The C++ runtime and its program against Python: they give the same results and messages."""

import itertools
import json
import platform
import re
import subprocess
import threading

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, PHOTOS, PROGRAM, small_untrained
from PIL import Image
from pycocotools import mask as rle
from test_export import write_with_unknown_operator, write_wrong_models
from test_images import broken_files, write_kinds
from torchvision.ops import box_iou

import yolact
from yolact.demo import disagreement
from yolact.models.detections import Detections, EncodedDetections
from yolact.visualize import class_color

_runtime = pytest.importorskip("yolact._runtime", reason="the C++ side is not built: make cpp")


def as_detections(arrays, kind=Detections):
    """Converts the binding's detections to the Python type with tensors."""
    values = (getattr(arrays, name) for name in kind._fields)
    return kind(*(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values))


@pytest.fixture
def segmenter(small_export):
    return _runtime.Segmenter(small_export)


def run_program(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda path: path.stem)
def test_all_implementations_agree(photo, small_detector, small_export, segmenter, tmp_path):
    """Eager Python, scripted Python, the C++ library and the C++ program find the same objects."""
    image = yolact.read_image(photo)
    detector = small_detector.optimize()
    detector.score_threshold = 0.15
    eager = detector(image)
    assert len(eager.labels) > 5
    scripted = yolact.load_exported(small_export)
    scripted.score_threshold = segmenter.score_threshold = 0.15
    answers = {"scripted": scripted(image), "runtime": as_detections(segmenter.segment(_runtime.read_image(photo)))}
    for name, answer in answers.items():
        assert disagreement(eager, yolact.coco_results(answer, 1)) == "", name
    finished = run_program(
        small_export, photo, "-o", tmp_path, "--json", tmp_path / "results.json", "--score-threshold", 0.15
    )
    assert finished.returncode == 0, finished.stderr
    entries = json.loads((tmp_path / "results.json").read_text())
    assert disagreement(eager, entries) == ""
    assert {entry["image"] for entry in entries} == {str(photo)}
    assert [entry["category_name"] for entry in entries] == [small_detector.class_names[i] for i in eager.labels]
    with Image.open(tmp_path / f"{photo.stem}.png") as picture:
        assert picture.size == (image.shape[1], image.shape[0])


def check_without_canvas(segmenter, images) -> None:
    """Checks that run lengths and crops describe the masks."""
    arrays = [image.numpy() for image in images]
    ways = (
        segmenter.segment_batch(arrays),
        segmenter.segment_encoded_batch(arrays),
        segmenter.segment_cropped_batch(arrays),
    )
    for detections, encoded, cropped, image in zip(*ways, arrays, strict=True):
        for other in (encoded, cropped):
            assert len(other) == len(detections)
            assert (other.height, other.width) == image.shape[:2]
            for name in ("boxes", "scores", "labels", "mask_scores"):
                assert np.array_equal(getattr(other, name), getattr(detections, name)), name
        runs = as_detections(encoded, EncodedDetections)
        assert yolact.coco_results(runs, 1) == yolact.coco_results(as_detections(detections), 1)
        masks = np.zeros_like(detections.masks)
        for mask, (x1, y1, x2, y2), begin, end in zip(
            masks, cropped.crops, cropped.offsets[:-1], cropped.offsets[1:], strict=True
        ):
            mask[y1:y2, x1:x2] = cropped.pixels[begin:end].reshape(y2 - y1, x2 - x1)
        assert np.array_equal(masks, detections.masks)


def test_run_lengths_and_crops_are_those_of_the_masks(segmenter, small_detector):
    images = [yolact.read_image(photo) for photo in PHOTOS]
    check_without_canvas(segmenter, images)
    encoded = as_detections(segmenter.segment_encoded_batch([images[2].numpy()])[0], EncodedDetections)
    assert disagreement(small_detector(images[2]), yolact.coco_results(encoded, 1)) == ""
    segmenter.score_threshold = 1.0
    check_without_canvas(segmenter, images[:1])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_precision_other_than_the_files(precision, small_detector, small_export, tmp_path):
    image = yolact.read_image(PHOTOS[2])
    expected = small_detector(image)
    segmenter = _runtime.Segmenter(small_export, "cpu", precision)
    assert segmenter.precision == precision
    detections = as_detections(segmenter.segment(image.numpy()))
    same = (box_iou(expected.boxes, detections.boxes) * (expected.labels[:, None] == detections.labels)).amax(
        dim=1
    ) > 0.8
    assert same.float().mean() > 0.8
    results = tmp_path / "results.json"
    finished = run_program(small_export, PHOTOS[2], "--no-pictures", "--json", results, "--precision", precision)
    warned = finished.stderr.startswith("yolact-segment: warning: fp16 is slow on a CPU")
    assert warned == (precision == "fp16" and platform.machine() == "x86_64")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(results.read_text())


def test_the_error_for_a_wrong_precision_is_one_line(small_export, tmp_path):
    finished = run_program(small_export, PHOTOS[2], "-o", tmp_path, "--precision", "int4")
    assert finished.returncode != 0
    assert "precision must be one of fp32, bf16, fp16, got 'int4'" in finished.stderr


def test_json_without_pictures_is_the_same(small_export, tmp_path):
    for name, options in (("with", ()), ("without", ("--no-pictures",))):
        results = tmp_path / "new" / f"{name}.json"
        finished = run_program(small_export, *PHOTOS, "-o", tmp_path / name, "--json", results, *options)
        assert finished.returncode == 0, finished.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "with"]
    text = (tmp_path / "new" / "without.json").read_text()
    assert len(json.loads(text)) > 10
    assert text == (tmp_path / "new" / "with.json").read_text()


# The other presets differ from these or from `small_export` only in depth, in size or in their number of classes.
@pytest.mark.parametrize(
    ("preset", "size"),
    [
        ("yolact_darknet53", 96),
        ("yolact_r50_1x8_coco", 96),
        ("yolact_shapes", 96),
        ("yolact_plus_resnet50", 550),  # its real size
    ],
)
def test_python_and_the_program_agree_for_every_kind_of_network(preset, size, tmp_path):
    """Python and the program, which does not use Python, find the same objects with one exported file."""
    detector = small_untrained(preset, size)
    image = yolact.read_image(PHOTOS[2])
    expected = detector.optimize()(image)
    assert len(expected.labels) > 0
    assert torch.equal(expected.scores, expected.mask_scores) != detector.model.preset.rescores_masks
    yolact.export(detector, tmp_path / "model.pt")
    threshold = ("--score-threshold", detector.score_threshold)
    model, results = tmp_path / "model.pt", tmp_path / "results.json"
    finished = run_program(model, PHOTOS[2], "--no-pictures", "--json", results, *threshold)
    model.unlink()
    assert finished.returncode == 0, finished.stderr
    assert disagreement(expected, json.loads(results.read_text())) == ""


def test_an_unknown_operator_is_named(tmp_path):
    write_with_unknown_operator(tmp_path / "tomorrow.pt")
    finished = run_program(tmp_path / "tomorrow.pt", PHOTOS[2], "-o", tmp_path / "out")
    assert finished.returncode == 1
    assert "needs the operator yolact_of_tomorrow::segment_all" in finished.stderr
    assert "libyolact_ops" in finished.stderr
    assert "Unknown builtin op" not in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_disagreement_notices_what_differs(small_detector):
    detections = small_detector(yolact.read_image(PHOTOS[2]))
    entries = yolact.coco_results(detections, 1)
    assert disagreement(detections, entries) == ""
    for field, value in (
        ("boxes", detections.boxes + 0.01),
        ("scores", detections.scores + 1e-4),
        ("mask_scores", detections.mask_scores + 1e-4),
        ("labels", (detections.labels + 1) % 80),
        ("masks", detections.masks.roll(1, dims=2)),
    ):
        assert field.removeprefix("mask_").rstrip("es").rstrip("s") in disagreement(
            detections._replace(**{field: value}), entries
        )


def test_every_kind_of_image_is_read_as_python_reads_it(tmp_path):
    photo = Image.open(PHOTOS[1]).convert("RGB").resize((60, 80))
    for name, path in write_kinds(photo, tmp_path).items():
        assert np.array_equal(_runtime.read_image(path), yolact.read_image(path).numpy()), name
        for reading in itertools.product((False, True), ("high", "scale")):
            expected = yolact.read_image(path, *reading).numpy()
            assert np.array_equal(_runtime.read_image(path, *reading), expected), (name, *reading)
    with pytest.raises(_runtime.Error, match="sixteen_bit must be high or scale, got 'low'"):
        _runtime.read_image(path, sixteen_bit="low")


def test_broken_images_are_the_same_errors(tmp_path):
    for path, message in [*broken_files(tmp_path).values(), (tmp_path, "this is a folder")]:
        with pytest.raises(_runtime.Error, match=message) as caught:
            _runtime.read_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_wrong_models_are_the_same_errors(small_export, tmp_path):
    for path, message in write_wrong_models(tmp_path, small_export).values():
        with pytest.raises(_runtime.Error, match=message) as caught:
            _runtime.Segmenter(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        finished = run_program(path, PHOTOS[0], "-o", tmp_path / "out")
        assert finished.returncode == 1
        assert re.search(message, finished.stderr)
        assert len(finished.stderr.splitlines()) == 1


def test_metadata_of_the_file(segmenter, small_detector):
    assert segmenter.class_names == small_detector.class_names
    assert segmenter.preset == "yolact_resnet50"
    assert segmenter.image_size == 160
    assert segmenter.precision == "fp32"
    assert segmenter.model_version == yolact.__version__ == _runtime.__version__


def test_settings(segmenter):
    image = yolact.read_image(PHOTOS[0]).numpy()
    segmenter.score_threshold, segmenter.max_detections, segmenter.iou_threshold = 0.0, 3, 0.4
    assert len(segmenter.segment(image)) == 3
    assert segmenter.iou_threshold == 0.4
    segmenter.score_threshold = 1.0
    detections = segmenter.segment(image)
    assert len(detections) == 0
    assert detections.boxes.shape == (0, 4)
    assert detections.masks.shape == (0, *image.shape[:2])
    for name, value in (
        ("score_threshold", 1.5),
        ("score_threshold", float("nan")),
        ("iou_threshold", -0.1),
        ("max_detections", -1),
    ):
        with pytest.raises(_runtime.Error, match=name.replace("_", ".")):
            setattr(segmenter, name, value)


def test_channel_orders_and_strides(segmenter):
    image = yolact.read_image(PHOTOS[2]).numpy()
    expected = as_detections(segmenter.segment(image))

    def check(pixels, order):
        for a, b in zip(as_detections(segmenter.segment(pixels, order)), expected, strict=True):
            assert torch.equal(a, b), order

    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    check(np.ascontiguousarray(image[:, :, ::-1]), "bgr")
    check(np.concatenate((image, opaque), axis=2), "rgba")
    check(np.concatenate((image[:, :, ::-1], opaque), axis=2), "bgra")
    padded = np.zeros((image.shape[0], image.shape[1] + 13, 3), np.uint8)
    padded[:, : image.shape[1]] = image
    check(padded[:, : image.shape[1]], "rgb")
    grey = np.ascontiguousarray(image[:, :, 0])
    in_grey = segmenter.segment(grey, "gray")
    in_color = segmenter.segment(np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(in_grey.scores, in_color.scores)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (333, 2)])
def test_extreme_sizes(segmenter, small_detector, shape):
    image = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    assert (
        disagreement(small_detector(image), yolact.coco_results(as_detections(segmenter.segment(image.numpy())), 1))
        == ""
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), "must be"),
        (np.zeros((4, 4, 4), np.uint8), "must be"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "0"),
    ],
)
def test_invalid_images_are_refused(segmenter, image, message):
    with pytest.raises(_runtime.Error, match=message):
        segmenter.segment(image)


def test_batches_and_threads(segmenter):
    images = [yolact.read_image(photo).numpy() for photo in PHOTOS]
    alone = [as_detections(segmenter.segment(image)) for image in images]
    for detections, image in zip(segmenter.segment_batch(images), images, strict=True):
        assert detections.masks.shape[1:] == image.shape[:2]
    assert segmenter.segment_batch([]) == []
    together: dict[int, Detections] = {}

    def work(number: int) -> None:
        together[number] = as_detections(segmenter.segment(images[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        assert torch.equal(together[number].labels, alone[number].labels)


def test_results_outlive_the_segmenter(small_export):
    detections = _runtime.Segmenter(small_export).segment(yolact.read_image(PHOTOS[2]).numpy())
    masks = detections.masks
    del detections
    assert masks.any()


def test_run_lengths_and_colors_are_equal():
    for mask in (np.zeros((5, 7), bool), np.ones((5, 7), bool), np.random.default_rng(0).random((90, 41)) > 0.6):
        expected = rle.encode(np.asfortranarray(mask.view(np.uint8)))["counts"].decode()
        assert _runtime.encode_mask(mask) == expected
    assert [tuple(_runtime.class_color(label)) for label in range(200)] == [class_color(label) for label in range(200)]


def test_a_drawing_equals_pythons(segmenter):
    image = yolact.read_image(PHOTOS[2])
    segmenter.score_threshold = 0.2
    detections = segmenter.segment(image.numpy())
    drawn = _runtime.draw(image.numpy(), detections, [""] * 80).astype(int)
    ours = yolact.draw(image, as_detections(detections), [""] * 80).permute(1, 2, 0).numpy().astype(int)
    # Only the captions differ.
    assert (np.abs(drawn - ours).max(axis=2) <= 1).mean() > 0.9


def test_captions_that_are_not_ascii_equal_pythons(segmenter):
    image = yolact.read_image(PHOTOS[2])
    segmenter.score_threshold, segmenter.max_detections = 0.2, 1
    detections = segmenter.segment(image.numpy())
    without_name = _runtime.draw(image.numpy(), detections, [""] * 80).astype(int)
    for script, name in CAPTIONS.items():
        drawn = _runtime.draw(image.numpy(), detections, [name] * 80).astype(int)
        ours = yolact.draw(image, as_detections(detections), [name] * 80).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(drawn - ours).max() <= 1, script
        assert np.abs(drawn - without_name).max() > 100, script


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("model.pt",),
        ("--no-such-option",),
        ("model.pt", "a.jpg", "--score-threshold", "2"),
        ("model.pt", "a.jpg", "-o"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    assert run_program(*arguments).returncode == 2


def test_help_and_version():
    shown = run_program("--help")
    assert shown.returncode == 0
    for option in ("--json FILE", "--no-pictures", "--score-threshold", "--device", "--cuda-graph", "-o"):
        assert option in shown.stdout
    assert yolact.__version__ in run_program("--version").stdout


def test_the_program_lists_bad_images_and_does_the_good_ones(small_export, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    present = [path for path, _ in broken_files(folder).values() if path.exists()]
    (folder / "good.png").write_bytes(PHOTOS[2].read_bytes())
    results = tmp_path / "results.json"
    finished = run_program(small_export, folder, "-o", tmp_path / "out", "--json", results)
    assert finished.returncode == 1
    assert all(sum(str(path) in line for line in finished.stderr.splitlines()) == 1 for path in present)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]
    entries = json.loads(results.read_text())
    assert {entry["image"] for entry in entries} == {str(folder / "good.png")}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without CUDA")
def test_the_error_without_a_cuda_device(small_export, tmp_path):
    finished = run_program(small_export, PHOTOS[0], "--device", "cuda", "-o", tmp_path)
    assert finished.returncode == 1
    assert len(finished.stderr.splitlines()) == 1
    assert "CUDA" in finished.stderr


def test_cuda_graphs_need_cuda(small_export, tmp_path):
    with pytest.raises(_runtime.Error, match="CUDA graphs need a model on CUDA, this one is on cpu"):
        _runtime.Segmenter(small_export, cuda_graph=True)
    finished = run_program(small_export, PHOTOS[0], "--cuda-graph", "-o", tmp_path)
    assert finished.returncode == 2
    assert "--cuda-graph needs --device cuda" in finished.stderr


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_graphs_change_nothing(small_export, precision):
    graphed = _runtime.Segmenter(small_export, "cuda", precision, cuda_graph=True)
    plain = _runtime.Segmenter(small_export, "cuda", precision)
    photo = yolact.read_image(PHOTOS[2]).numpy()
    calls = [[photo], [photo[:100, :250]], [photo, photo[:90]], [np.ascontiguousarray(photo[::-1])], []]
    for threshold, most in ((0.05, 100), (0.3, 100), (0.05, 2), (1.0, 100)):
        for segmenter in (graphed, plain):
            segmenter.score_threshold, segmenter.max_detections = threshold, most
        for _ in range(2):
            for images in calls:
                for detections, wanted in zip(graphed.segment_batch(images), plain.segment_batch(images), strict=True):
                    assert disagreement(as_detections(wanted), yolact.coco_results(as_detections(detections), 1)) == ""
    grey = np.ascontiguousarray(photo[:, :, 0])
    for segmenter in (graphed, plain):
        segmenter.score_threshold = 0.05
    assert len(graphed.segment(grey, "gray")) == len(plain.segment(grey, "gray")) > 0
    check_without_canvas(graphed, [yolact.read_image(PHOTOS[2])])


@pytest.mark.cuda
def test_threads_take_turns_at_cuda_graphs(small_export):
    segmenter = _runtime.Segmenter(small_export, "cuda", cuda_graph=True)
    photo = yolact.read_image(PHOTOS[2]).numpy()
    images = [photo, photo[:100, :250], np.ascontiguousarray(photo[::-1])]
    alone = [as_detections(segmenter.segment(image)) for image in images]
    together: dict[int, list[Detections]] = {}

    def work(number: int) -> None:
        together[number] = [as_detections(segmenter.segment(images[number])) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        for actual in together[number]:
            assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.cuda
def test_the_program_with_cuda_graphs(small_export, tmp_path):
    texts = []
    for name, options in (("plain", ()), ("graphs", ("--cuda-graph",))):
        results = tmp_path / f"{name}.json"
        finished = run_program(
            small_export, *PHOTOS, *PHOTOS, "--device", "cuda", "--json", results, "-o", tmp_path / name, *options
        )
        assert finished.returncode == 0, finished.stderr
        texts.append(json.loads(results.read_text()))
    assert [entry["category_id"] for entry in texts[0]] == [entry["category_id"] for entry in texts[1]]


@pytest.mark.cuda
def test_python_and_the_runtime_agree_on_cuda(small_export):
    image = yolact.read_image(PHOTOS[2])
    python = yolact.load_exported(small_export, "cuda")(image)
    detections = _runtime.Segmenter(small_export, "cuda").segment(image.numpy())
    assert (
        disagreement(
            Detections(*(values.cpu() for values in python)), yolact.coco_results(as_detections(detections), 1)
        )
        == ""
    )
