"""Compares the network and the detector with recorded outputs of the original implementations."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import PARITY, recorded_state, recording
from torchvision.ops import box_iou

import yolact
from yolact.benchmark import deterministic
from yolact.config import PRESETS
from yolact.models.detections import Detections
from yolact.models.yolact import Predictions


class Case(NamedTuple):
    name: str  # of the recording and its layout
    preset: str


OF_MMDET = {"mmdet_r50": "yolact_r50_1x8_coco", "mmdet_r101": "yolact_r101_1x8_coco"}
# Every recording in the folder. tests/test_plain_network.py covers the presets without a recording.
CASES = [
    Case(path.stem, OF_MMDET.get(path.stem, path.stem))
    for path in sorted(PARITY.glob("*.npz"))
    if path.stem in OF_MMDET or path.stem in PRESETS
]


class Run(NamedTuple):
    recorded: dict[str, np.ndarray]
    detector: yolact.Detector
    predictions: Predictions
    detections: Detections


@pytest.fixture(scope="module", params=[True, False], ids=["optimized", "plain"])
def optimized(request) -> bool:
    return request.param


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def run(request, optimized) -> Run:
    recorded = recording(request.param.name)
    model = yolact.build_model(request.param.preset).eval()
    yolact.load_weights(model, recorded_state(request.param.name, float(recorded["score_gain"])))
    detector = yolact.Detector(model).eval()
    if optimized:
        detector = detector.optimize()
    height, width = recorded["input_hw"].tolist()
    with torch.no_grad():
        predictions = detector.model(
            torch.from_numpy(deterministic.network_input(int(recorded["input_seed"]), height, width))
        )
    width, height = recorded["image_wh"].tolist()
    return Run(recorded, detector, predictions, detector.postprocess(predictions, [(height, width)])[0])


def check_samples(recorded: dict[str, np.ndarray], name: str, actual: torch.Tensor) -> None:
    assert list(actual.shape) == recorded[f"{name}_shape"].tolist()
    values = recorded[f"{name}_value"]
    difference = np.abs(actual.flatten()[recorded[f"{name}_index"]].numpy() - values).max()
    assert difference <= 1e-3 * np.abs(values).max(), name


def test_preprocessing():
    recorded = recording("preprocess")
    height, width = recorded["photo_hw"].tolist()
    image = torch.from_numpy(deterministic.photo(int(recorded["photo_seed"]), height, width))
    detector = yolact.Detector(yolact.build_model("yolact_resnet50"))
    actual = detector.preprocess(image)
    assert list(actual.shape) == recorded["shape"].tolist()
    assert np.abs(actual.flatten()[recorded["index"]].numpy() - recorded["value"]).max() <= 1e-3
    assert torch.equal(actual, detector.preprocess(image.permute(2, 0, 1)))


def test_raw_outputs(run):
    check_samples(run.recorded, "loc", run.predictions.box_deltas)
    check_samples(run.recorded, "mask", run.predictions.coefficients)
    check_samples(run.recorded, "proto", run.predictions.prototypes)
    if "conf_value" in run.recorded:
        check_samples(run.recorded, "conf", run.predictions.logits.softmax(dim=-1))
    else:  # mmdet: logits, background last
        check_samples(run.recorded, "conf_logits", run.predictions.logits.roll(-1, dims=-1))


def test_anchors(run):
    height, width = run.recorded["input_hw"].tolist()
    anchors = run.detector.model.anchors(height, width)
    if "priors_value" in run.recorded:
        centre_and_size = torch.cat(((anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]), dim=1)
        check_samples(run.recorded, "priors", centre_and_size)
    else:
        check_samples(run.recorded, "anchors_xyxy", anchors * torch.tensor([width, height, width, height]))


def recorded_boxes(run: Run) -> torch.Tensor:
    """The recorded boxes in pixels, clamped to the image as ours are."""
    width, height = run.recorded["image_wh"].tolist()
    if "det_box" in run.recorded:
        boxes = torch.from_numpy(run.recorded["det_box"]) * torch.tensor([width, height, width, height])
    else:
        boxes = torch.from_numpy(run.recorded["out_box"])
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))


def test_detections(run):
    """At least 98 of 100 match one to one: the same class, score within 1e-3, IoU > 0.99 or corners within a pixel."""
    expected_boxes = recorded_boxes(run)
    expected_labels = torch.from_numpy(run.recorded["out_class"])
    expected_scores = torch.from_numpy(run.recorded["out_score"])
    ours = run.detections
    iou = box_iou(expected_boxes, ours.boxes)
    close = (expected_boxes[:, None] - ours.boxes[None]).abs().amax(dim=2) <= 1
    matching = (expected_labels[:, None] == ours.labels) & ((iou > 0.99) | close)
    matching &= (expected_scores[:, None] - ours.scores).abs() <= 1e-3
    taken: set[int] = set()
    for row in matching:
        free = [column for column in row.nonzero()[:, 0].tolist() if column not in taken]
        taken.update(free[:1])
    assert len(taken) >= 98
    assert len(ours.labels) == len(expected_labels)
    assert (ours.scores.diff() <= 0).all()
    if "mask_score" in run.recorded:
        columns = [matching[i].nonzero()[:1, 0].tolist() for i in range(len(matching))]
        rescored = zip(columns, run.recorded["mask_score"].tolist(), strict=True)
        close = [abs(ours.mask_scores[column[0]].item() - score) <= 1e-3 for column, score in rescored if column]
        assert sum(close) >= 98
    else:
        assert torch.equal(ours.mask_scores, ours.scores)


def test_masks(run):
    """Every recorded mask equals the mask of the detection with its class and score, and the areas are equal too."""
    shape = run.recorded["out_mask_bits_shape"]
    bits = np.unpackbits(run.recorded["out_mask_bits"])[: shape.prod()].reshape(shape).astype(bool)
    ours, areas, compared = run.detections, run.recorded["out_mask_area"], 0
    for i, (label, score) in enumerate(zip(run.recorded["out_class"], run.recorded["out_score"], strict=True)):
        same = ((ours.labels == int(label)) & ((ours.scores - float(score)).abs() < 1e-4)).nonzero()[:, 0].tolist()
        if not same:
            continue
        compared += 1
        masks = ours.masks[same].numpy()
        assert np.abs(masks.sum(axis=(1, 2)) - areas[i]).min() <= max(2, 1e-3 * areas[i])
        if i < len(bits):
            union = (masks | bits[i]).sum(axis=(1, 2))
            assert ((union == 0) | ((masks & bits[i]).sum(axis=(1, 2)) > 0.999 * union)).any()
    assert compared >= 98
