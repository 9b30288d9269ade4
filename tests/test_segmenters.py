"""Tests that all segmenters that a command can open have the same interface and give the same results."""

import importlib.util
import warnings
from dataclasses import replace

import pytest
import torch
from conftest import DEVICES, PHOTOS

import yolact
from yolact.config import PRESETS, get_preset
from yolact.demo import disagreement
from yolact.models.detections import CroppedDetections, Detections, EncodedDetections
from yolact.models.detector import Detector
from yolact.models.yolact import Predictions, Yolact
from yolact.ops.reference import run_lengths
from yolact.segmenters import ExportedDetector, RuntimeSegmenter, open_segmenter

# A small model that opens quickly.
TINY = replace(get_preset("yolact_shapes"), name="tiny", backbone="shufflenet_v2_x0_5", image_size=64, fpn_channels=16)
KINDS = {"detector": Detector, "exported": ExportedDetector, "runtime": RuntimeSegmenter}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the same model as weights.safetensors and as model.pt."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models")
    write_models(Detector(Yolact(TINY)).eval(), path)
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Such a folder with a model whose output is never finite."""
    path = tmp_path_factory.mktemp("broken")
    detector = Detector(Yolact(TINY)).eval()
    with torch.no_grad():
        for weights in detector.model.head.parameters():
            weights.fill_(1e30)
    write_models(detector, path)
    return path


def write_models(detector, folder) -> None:
    yolact.save_weights(detector.model, folder / "weights.safetensors", detector.class_names)
    yolact.export(detector, folder / "model.pt")


@pytest.fixture
def detector(folder, monkeypatch) -> Detector:
    """The optimized detector, with which every kind of segmenter must agree."""
    monkeypatch.setitem(PRESETS, TINY.name, TINY)
    return yolact.load(folder / "weights.safetensors").optimize()


@pytest.fixture(params=KINDS)
def opened(request, folder, detector):
    """Opens the model as one kind of segmenter, as a command does."""
    if request.param == "runtime" and importlib.util.find_spec("yolact._runtime") is None:
        pytest.skip("the C++ side is not built: make cpp")

    def open_as_kind(device="cpu", precision=None, folder=folder):
        file = "weights.safetensors" if request.param == "detector" else "model.pt"
        segmenter = open_segmenter(folder / file, device, precision=precision, runtime=request.param == "runtime")
        assert type(segmenter) is KINDS[request.param]
        return segmenter

    return open_as_kind


@pytest.fixture
def images() -> list[torch.Tensor]:
    """Images of different sizes."""
    return [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8) for height, width in ((90, 70), (48, 64))]


def columns_of(detections) -> list[torch.Tensor]:
    return [detections.boxes, detections.scores, detections.labels, detections.mask_scores]


def test_names_device_and_precision(opened, detector):
    segmenter = opened()
    assert segmenter.class_names == detector.class_names
    assert (segmenter.device, segmenter.precision) == (torch.device("cpu"), "fp32")


@pytest.mark.parametrize("device", DEVICES)
def test_all_kinds_agree(opened, detector, images, device):
    segmenter = opened(device)
    assert segmenter.device.type == device
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = segmenter.forward_batch(images)
    for image, ours, expected in zip(images, results, detector.forward_batch(images), strict=True):
        assert type(ours) is Detections
        assert [column.dtype for column in ours] == [column.dtype for column in expected]
        assert ours.masks.shape == (len(ours.labels), *image.shape[:2])
        assert len(ours.labels) > 10
        assert disagreement(Detections(*(column.cpu() for column in ours)), yolact.coco_results(expected, 1)) == ""
        assert disagreement(segmenter(image), yolact.coco_results(ours, 1)) == ""


def test_run_lengths_and_crops_are_those_of_the_masks(opened, images):
    segmenter = opened()
    images = [image.flip(0)[::2] for image in images]  # an image whose pixels are not contiguous
    ways = segmenter.forward_batch(images), segmenter.forward_encoded(images), segmenter.forward_cropped(images)
    for image, whole, runs, crops in zip(images, *ways, strict=True):
        assert (type(runs), type(crops)) == (EncodedDetections, CroppedDetections)
        for other in (runs, crops):
            assert (other.height, other.width) == image.shape[:2]
            assert all(torch.equal(a, b) for a, b in zip(columns_of(other), columns_of(whole), strict=True))
        counts, offsets = run_lengths(whole.masks)
        assert torch.equal(runs.counts, counts)
        assert torch.equal(runs.offsets, offsets)
        masks = torch.zeros_like(whole.masks)
        for number, (x1, y1, x2, y2) in enumerate(crops.crops.tolist()):
            pixels = crops.pixels[crops.offsets[number] : crops.offsets[number + 1]]
            masks[number, y1:y2, x1:x2] = pixels.view(y2 - y1, x2 - x1)
        assert torch.equal(masks, whole.masks)


def test_settings(opened, detector, images):
    segmenter = opened()
    scores = segmenter(images[0]).scores
    assert segmenter.score_threshold == detector.score_threshold
    segmenter.score_threshold = middle = scores.median().item()
    assert torch.equal(segmenter(images[0]).scores, scores[scores > middle])
    segmenter.score_threshold, segmenter.max_detections = 0, 1
    assert (segmenter.score_threshold, segmenter.max_detections) == (0, 1)
    assert [len(runs.labels) for runs in segmenter.forward_encoded(images)] == [1, 1]
    segmenter.max_detections = 10**4
    counts = []
    for threshold in (0.0, 0.5, 1.0):
        segmenter.iou_threshold = threshold
        assert segmenter.iou_threshold == threshold
        counts.append(len(segmenter(images[0]).labels))
    assert counts[0] < counts[1] < counts[2]


def test_nothing_to_find(opened, images):
    segmenter = opened()
    assert segmenter.forward_batch([]) == segmenter.forward_encoded([]) == segmenter.forward_cropped([]) == []
    segmenter.score_threshold = 1.0
    detections, (runs,) = segmenter(images[0]), segmenter.forward_encoded(images[:1])
    assert detections.boxes.shape == runs.boxes.shape == (0, 4)
    assert detections.masks.shape == (0, *images[0].shape[:2])
    assert (runs.counts.tolist(), runs.offsets.tolist()) == ([], [0])


def test_another_precision(opened, detector, images):
    segmenter = opened(precision="bf16")
    assert segmenter.precision == "bf16"
    detections, exact = segmenter(images[0]), detector(images[0])
    assert not torch.equal(detections.scores, exact.scores)
    torch.testing.assert_close(detections.scores[:10], exact.scores[:10], atol=0.01, rtol=0.05)
    with pytest.raises(ValueError, match="int4"):
        opened(precision="int4")


def test_the_error_for_an_invalid_image_is_one_line(opened):
    segmenter = opened()
    channels, empty = (torch.zeros(shape, dtype=torch.uint8) for shape in ((4, 4, 2), (0, 4, 3)))
    for image in (channels, empty, channels[0], torch.zeros(4, 4, 3)):
        for call in (segmenter.forward_batch, segmenter.forward_encoded, segmenter.forward_cropped):
            with pytest.raises((ValueError, RuntimeError), match="^an image .*must ") as caught:
                call([image])
            assert "\n" not in str(caught.value)


def test_the_error_for_an_output_that_is_not_finite_is_one_line(opened, images, broken):
    segmenter = opened(folder=broken)
    reason = r"the network's output is not finite \(NaN or infinity\): check the weights and the precision"
    for call in (segmenter.forward_batch, segmenter.forward_encoded, segmenter.forward_cropped):
        with pytest.raises((ValueError, RuntimeError), match=f"^{reason}$"):
            call(images)


def test_the_stages_together_equal_one_call(opened, images):
    segmenter = opened()
    stages = segmenter.stages()
    if isinstance(segmenter, RuntimeSegmenter):
        assert stages is None
        return
    predictions = stages.model(torch.cat([stages.preprocess(image) for image in images]))
    results = stages.postprocess(Predictions(*predictions), [tuple(image.shape[:2]) for image in images])
    for ours, theirs in zip(results, segmenter.forward_batch(images), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_runtime_needs_an_exported_file(tmp_path):
    for model in ("yolact_shapes", tmp_path / "weights.safetensors"):
        with pytest.raises(ValueError, match="the C.. runtime runs only exported files"):
            open_segmenter(model, runtime=True)


def test_a_name_of_no_file_or_preset_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="neither a file nor a preset"):
        open_segmenter("yolact_resnet49")
    with pytest.raises(ValueError, match="there is no such file"):
        open_segmenter(tmp_path / "missing.pt")
    with pytest.raises(ValueError, match="neither a safetensors nor a PyTorch file"):
        open_segmenter(PHOTOS[0])
