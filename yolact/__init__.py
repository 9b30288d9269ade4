"""YOLACT and YOLACT++: real-time instance segmentation, trained in Python and deployed without it."""

from yolact.api import load
from yolact.config import list_models
from yolact.data.images import read_image
from yolact.evaluation.coco import coco_results
from yolact.export import export
from yolact.models.detections import Detections
from yolact.models.detector import Detector
from yolact.models.yolact import Predictions, Yolact, build_model
from yolact.segmenters import load_exported
from yolact.version import __version__
from yolact.visualize import draw
from yolact.weights.checkpoints import load_weights, save_weights

__all__ = [
    "Detections",
    "Detector",
    "Predictions",
    "Yolact",
    "__version__",
    "build_model",
    "coco_results",
    "draw",
    "export",
    "list_models",
    "load",
    "load_exported",
    "load_weights",
    "read_image",
    "save_weights",
]
