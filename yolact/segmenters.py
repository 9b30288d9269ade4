"""What a command can ask of a model, whatever runs the model, and the one place that opens a model for a command."""

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from yolact.api import load, usable_device
from yolact.export import is_exported, load_script
from yolact.models.detections import CroppedDetections, Detections, EncodedDetections
from yolact.models.yolact import Predictions

AnyDetections = TypeVar("AnyDetections", Detections, EncodedDetections, CroppedDetections)


class Stages(Protocol):
    """The stages of a call, which one measures one by one."""

    @property
    def model(self) -> Callable[[Tensor], Predictions]:
        """The network alone: an input [B, 3, S, S] becomes raw predictions."""
        ...

    def preprocess(self, image: Tensor) -> Tensor:
        """The network's input [1, 3, S, S] for a uint8 RGB image [H, W, 3]."""
        ...

    def postprocess(self, predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Detections]:
        """Detections from raw predictions and the (height, width) of each image in pixels."""
        ...


class Segmenter(Protocol):
    """Finds the objects in images: a `Detector`, an `ExportedDetector` or a `RuntimeSegmenter`.

    An image is a uint8 RGB tensor [H, W, 3] of any size. The tensors of the results are on `device` or, from the C++
    runtime, on the CPU. All methods raise ValueError or RuntimeError, with one line as the message, if an image is not
    of that kind or if the network's output is not finite.

    Attributes:
        score_threshold: the score of every detection is above it, 0–1.
        iou_threshold: of Fast NMS, 0–1.
        max_detections: the most detections of one image, at least 0.
    """

    score_threshold: float
    iou_threshold: float
    max_detections: int

    @property
    def class_names(self) -> list[str]:
        """The name of each label."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that runs the network."""
        ...

    @property
    def precision(self) -> str:
        """Of the network's weights and activations: fp32, bf16 or fp16."""
        ...

    def __call__(self, image: Tensor) -> Detections:
        """The detections of one image."""
        ...

    def forward_batch(self, images: list[Tensor]) -> list[Detections]:
        """The detections of several images, whose sizes may differ, in one pass through the network."""
        ...

    def forward_encoded(self, images: list[Tensor]) -> list[EncodedDetections]:
        """The same with masks as COCO's run lengths, in less time."""
        ...

    def forward_cropped(self, images: list[Tensor]) -> list[CroppedDetections]:
        """The same with masks as crops, in less time."""
        ...

    def stages(self) -> Stages | None:
        """The stages of a call; None if they cannot be called one by one."""
        ...


class _Wrapper:
    """A model that is not a `Detector` but does what a `Detector` does.

    Args:
        model: with a `Detector`'s settings.
        device: that runs the network.
        methods: of the model, from images to results, by the kind of the results.
    """

    def __init__(self, model: Any, device: torch.device, methods: Mapping[Any, Callable[[list[Any]], list[Any]]]):
        self._model = model
        self._device = device
        self._methods = methods
        self._class_names = list(model.class_names)

    def __call__(self, image: Tensor) -> Detections:
        """The detections of one image."""
        return self.forward_batch([image])[0]

    def forward_batch(self, images: list[Tensor]) -> list[Detections]:
        """The detections of several images, whose sizes may differ."""
        return self._run(images, Detections)

    def forward_encoded(self, images: list[Tensor]) -> list[EncodedDetections]:
        """The same with masks as COCO's run lengths, in less time."""
        return self._run(images, EncodedDetections)

    def forward_cropped(self, images: list[Tensor]) -> list[CroppedDetections]:
        """The same with masks as crops, in less time."""
        return self._run(images, CroppedDetections)

    def _run(self, images: list[Any], kind: type[AnyDetections]) -> list[AnyDetections]:
        return [_typed(kind, result) for result in self._methods[kind](images)]

    @property
    def class_names(self) -> list[str]:
        """The name of each label."""
        return self._class_names

    @property
    def device(self) -> torch.device:
        """The device that runs the network."""
        return self._device

    @property
    def score_threshold(self) -> float:
        """The score of every detection is above it, 0–1."""
        return self._model.score_threshold

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self._model.score_threshold = float(value)

    @property
    def iou_threshold(self) -> float:
        """Of Fast NMS, 0–1."""
        return self._model.iou_threshold

    @iou_threshold.setter
    def iou_threshold(self, value: float) -> None:
        self._model.iou_threshold = float(value)

    @property
    def max_detections(self) -> int:
        """The most detections of one image, at least 0."""
        return self._model.max_detections

    @max_detections.setter
    def max_detections(self, value: int) -> None:
        self._model.max_detections = value


class ExportedDetector(_Wrapper):
    """A file of `yolact export` in Python: a `Segmenter`.

    Args:
        script: the file's content, as `yolact.export.load_script` gives it.

    Attributes:
        script: the TorchScript module, which has the methods of `Detector`.
    """

    def __init__(self, script: torch.jit.ScriptModule):
        methods = {
            Detections: script.forward_batch,
            EncodedDetections: script.forward_encoded,
            CroppedDetections: script.forward_cropped,
        }
        super().__init__(script, script.pixel_mean.device, methods)
        self.script = script

    @property
    def precision(self) -> str:
        """Of the network's weights and activations: fp32, bf16 or fp16."""
        return self.script.model.precision

    def stages(self) -> Stages:
        """The stages of a call."""
        return cast(Stages, self.script)

    def _run(self, images: list[Tensor], kind: type[AnyDetections]) -> list[AnyDetections]:
        try:
            return super()._run(images, kind)
        except (RuntimeError, torch.jit.Error) as error:
            raise RuntimeError(_reason(error)) from None


class RuntimeSegmenter(_Wrapper):
    """A file of `yolact export` in the C++ runtime: a `Segmenter`. Its results are on the CPU.

    Args:
        path: of the file.
        device: cpu, cuda or cuda:N.
        precision: of the network: fp32, bf16 or fp16; the file's by default.

    Raises:
        ImportError: if the runtime's Python binding is not built.
        ValueError: if the file is not a model, or cannot run on that device or in that precision.
    """

    def __init__(self, path: str | os.PathLike[str], device: str | torch.device = "cpu", precision: str | None = None):
        try:
            runtime = importlib.import_module("yolact._runtime")
        except ImportError as error:
            raise ImportError(f"the Python binding of the C++ runtime is not built ({error})") from None
        model = runtime.Segmenter(os.fspath(path), str(device), precision or "")
        methods = {
            Detections: model.segment_batch,
            EncodedDetections: model.segment_encoded_batch,
            CroppedDetections: model.segment_cropped_batch,
        }
        super().__init__(model, torch.device(device), methods)

    @property
    def precision(self) -> str:
        """Of the network's weights and activations: fp32, bf16 or fp16."""
        return self._model.precision

    def stages(self) -> None:
        """None: the runtime runs only the whole call."""
        return None

    def _run(self, images: list[Tensor], kind: type[AnyDetections]) -> list[AnyDetections]:
        return super()._run([image.cpu().contiguous().numpy() for image in images], kind)


def load_exported(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", precision: str | None = None
) -> ExportedDetector:
    """A model that `export` wrote; it is called and set like a `Detector`.

    Args:
        path: of the file.
        device: cpu, cuda or cuda:N.
        precision: of the network: fp32, bf16 or fp16; the file's by default.

    Raises:
        ModelFileError: if the file is missing, is not such a model, or was written by a newer version.
        ValueError: if `device` cannot be used, or there is no such precision.
    """
    return ExportedDetector(load_script(path, usable_device(device), precision))


def open_segmenter(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    preset: str | None = None,
    precision: str | None = None,
    runtime: bool = False,
) -> Segmenter:
    """The model that a user names: an exported file, or what `yolact.load` takes, optimized.

    Args:
        name_or_path: an exported file, a checkpoint file or a preset's name.
        device: cpu, cuda or cuda:N.
        preset: of a checkpoint file that does not say it.
        precision: of the network: fp32, bf16 or fp16; by default an exported file's own, fp32 for any other model.
        runtime: run an exported file in the C++ runtime instead of Python.

    Raises:
        ValueError: if there is no such model, it cannot be run like that, or `device` cannot be used.
        DownloadError: if a published checkpoint could not be fetched.
        ImportError: if the C++ runtime's Python binding is not built.
    """
    if is_exported(name_or_path):
        if runtime:
            return RuntimeSegmenter(name_or_path, device, precision)
        return load_exported(name_or_path, device, precision)
    if runtime:
        raise ValueError(f"{name_or_path}: the C++ runtime runs only exported files; write one with `yolact export`")
    return load(name_or_path, device, preset).optimize(precision or "fp32")


def _typed(kind: type[AnyDetections], result: Any) -> AnyDetections:
    """A result with the fields of `kind` as a `kind`; arrays become tensors that share their memory."""
    fields: dict[str, Any] = {name: getattr(result, name) for name in kind._fields}
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = torch.from_numpy(value)
    return kind(**fields)


def _reason(error: Exception) -> str:
    """Of an error's many lines from TorchScript, the one that says what happened."""
    text = str(error)
    for marker in ("RuntimeError: ", "ValueError: "):
        text = text.rpartition(marker)[2]
    return text.partition("\n")[0]
