"""Detectors with made-up but reproducible weights, for benchmarks and tests."""

import torch

from yolact.benchmark import deterministic
from yolact.models.detector import Detector
from yolact.models.yolact import Yolact
from yolact.weights.checkpoints import load_weights
from yolact.weights.layouts import name_in_original


def untrained_detector(model: Yolact) -> Detector:
    """A detector with the weights of the parity recordings: it detects many objects, none of which mean anything."""
    names = {name_in_original(name): tuple(value.shape) for name, value in model.state_dict().items()}
    load_weights(model, {name: torch.from_numpy(deterministic.tensor(name, shape)) for name, shape in names.items()})
    return Detector(model).eval()
