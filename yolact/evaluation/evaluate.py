"""Evaluation of anything that finds objects in images: a Detector, an exported model or the C++ runtime."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor
from torchvision.io import write_png

from yolact.api import load, usable_device
from yolact.data.images import read_image
from yolact.evaluation.coco import box_score, coco_results
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.results import Results
from yolact.export import is_exported, load_exported
from yolact.files import written_whole
from yolact.models.detector import Detections, EncodedDetections
from yolact.visualize import draw


class Segmenter(Protocol):
    """What is evaluated: `Detector`, an exported model, or `RuntimeSegmenter`.

    One that has `forward_encoded` too, as `Detector` has it, is asked for run lengths instead of masks.
    """

    class_names: list[str]

    def __call__(self, image: Tensor) -> Detections:
        """Detections of a uint8 RGB image [H, W, 3]."""
        ...


class RuntimeSegmenter:
    """The C++ runtime, called as a Detector is.

    Args:
        model: an exported file.
        device: cpu, cuda or cuda:N.

    Raises:
        ImportError: if the runtime's binding is not built.
        ValueError: if the model cannot be run.
    """

    def __init__(self, model: str | os.PathLike[str], device: str = "cpu"):
        try:
            from yolact import _runtime
        except ImportError as error:
            raise ImportError(f"the C++ runtime's Python binding is not built ({error})") from None
        self._segmenter = _runtime.Segmenter(os.fspath(model), device)
        self.class_names: list[str] = list(self._segmenter.class_names)

    def __call__(self, image: Tensor) -> Detections:
        """Detections of a uint8 RGB image [H, W, 3]."""
        found = self._segmenter.segment(image.numpy())
        return Detections(*(torch.from_numpy(np.array(getattr(found, name))) for name in Detections._fields))

    def forward_encoded(self, images: Sequence[Tensor]) -> list[EncodedDetections]:
        """The same of several images, with masks as run lengths."""
        return self._segmenter.segment_encoded_batch([image.numpy() for image in images])


def open_segmenter(
    name_or_path: str | os.PathLike[str], device: str = "cpu", preset: str | None = None, runtime: bool = False
) -> Segmenter:
    """What `name_or_path` names: an exported model, or what `yolact.load` takes.

    Args:
        name_or_path: file or preset.
        device: cpu, cuda or cuda:N.
        preset: of a checkpoint that does not tell it.
        runtime: run an exported model in the C++ runtime instead of Python.

    Raises:
        ValueError, DownloadError, ImportError: if that cannot be done.
    """
    exported = Path(name_or_path).exists() and is_exported(name_or_path)
    if runtime:
        if not exported:
            raise ValueError(f"{name_or_path}: the C++ runtime runs exported models only; see yolact export")
        return RuntimeSegmenter(name_or_path, device)
    if exported:
        return load_exported(name_or_path, usable_device(device))
    return load(name_or_path, device, preset).optimize()


def segment_all(
    segmenter: Segmenter, evaluation_set: EvaluationSet, seen: Callable[[], bool] = lambda: True
) -> Results:
    """COCO results for every image, which go to a file at once: memory does not grow with them.

    Args:
        segmenter: its thresholds stay as they are.
        evaluation_set: the images.
        seen: called after each image; evaluation ends early where it returns False.

    Raises:
        ImageError: at an image that cannot be read.
        ValueError: if no class of the model is a category.
        OSError: if the results cannot be kept.
    """
    categories = evaluation_set.categories_of(segmenter.class_names)
    results = Results()
    for image_id, image in evaluation_set.read_images():
        results.add(coco_results(without_canvas(segmenter, image), image_id, categories))
        if not seen():
            break
    return results


def without_canvas(segmenter: Segmenter, image: Tensor) -> Detections | EncodedDetections:
    """What `segmenter` finds in a uint8 RGB image [H, W, 3], as run lengths where it can.

    Models exported in formats 1 and 2 cannot, and give masks.
    """
    encode = getattr(segmenter, "forward_encoded", None)
    return segmenter(image) if encode is None else encode([image])[0]


def detections_of(results: Sequence[dict[str, Any]], category_ids: Sequence[int]) -> Detections:
    """COCO results of one image as detections, labelled by their place in `category_ids`."""
    ordered = sorted(results, key=lambda entry: -box_score(entry))
    boxes = torch.tensor([entry["bbox"] for entry in ordered]).view(-1, 4)
    masks = [rle.decode(entry["segmentation"]).astype(bool) for entry in ordered]
    return Detections(
        torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1),
        torch.tensor([box_score(entry) for entry in ordered]),
        torch.tensor([category_ids.index(entry["category_id"]) for entry in ordered], dtype=torch.long),
        torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 1, 1, dtype=torch.bool),
        torch.tensor([entry["score"] for entry in ordered]),
    )


def truth_of(evaluation_set: EvaluationSet, image_id: int) -> Detections:
    """The objects of an image, crowds left out, as detections of score 1."""
    truth = evaluation_set.truth
    entries = []
    for annotation in truth.imgToAnns[image_id]:
        if not annotation.get("iscrowd", 0):
            entries.append({**annotation, "score": 1.0, "segmentation": truth.annToRLE(annotation)})
    return detections_of(entries, evaluation_set.category_ids)


def beside_truth(
    evaluation_set: EvaluationSet, image_id: int, detections: Detections, score_threshold: float = 0.3
) -> Tensor:
    """The image with `detections` above the threshold, and to its right the image with the truth.

    Returns:
        uint8 RGB [3, H, 2·W + 4].
    """
    image = read_image(evaluation_set.paths[evaluation_set.image_ids.index(image_id)])
    shown = detections.scores > score_threshold
    names = list(evaluation_set.class_names)
    left = draw(image, Detections(*(column[shown.to(column.device)] for column in detections)), names)
    right = draw(image, truth_of(evaluation_set, image_id), names)
    return torch.cat((left, torch.full((3, image.shape[0], 4), 255, dtype=torch.uint8), right), dim=2)


def save_worst(
    evaluation_set: EvaluationSet,
    results: Results,
    quality: dict[int, float],
    count: int,
    folder: Path,
) -> list[Path]:
    """Draws the images with the worst `Scores.quality`, prediction beside truth.

    Args:
        evaluation_set: the images, with truth.
        results: all of them.
        quality: by image id.
        count: of pictures.
        folder: made if missing.

    Returns:
        The pictures, the worst first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for rank, image_id in enumerate(sorted(quality, key=quality.__getitem__)[:count], start=1):
        found = detections_of(results.of_image(image_id), evaluation_set.category_ids)
        picture = beside_truth(evaluation_set, image_id, found)
        pictures.append(folder / f"{rank:03d}_{quality[image_id]:.2f}_{image_id}.png")
        with written_whole(pictures[-1]) as temporary:
            write_png(picture, str(temporary))
    return pictures


@dataclass(frozen=True)
class Speed:
    """Medians over single images, the way the papers count: pictures are in memory, none is drawn.

    network: images a second through the network alone; None where it cannot be called alone.
    end_to_end: from the pixels of an image to its boxes and masks at its size.
    """

    network: float | None
    end_to_end: float


@torch.no_grad()
def measure_speed(segmenter: Segmenter, evaluation_set: EvaluationSet, images: int = 50, warm_up: int = 5) -> Speed:
    """The speed of `segmenter` on the first images, one at a time.

    Raises:
        ImageError: at an image that cannot be read.
    """
    pictures = [image for _, image in islice(evaluation_set.read_images(), images)]
    network = None
    if hasattr(segmenter, "model"):
        inputs = [segmenter.preprocess(image) for image in pictures]
        network = 1 / _median_seconds(segmenter.model, inputs, warm_up)
    return Speed(network, 1 / _median_seconds(segmenter, pictures, warm_up))


def _median_seconds(function: Callable[[Tensor], Any], arguments: Sequence[Tensor], warm_up: int) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for number in range(warm_up):
        function(arguments[number % len(arguments)])
    seconds = []
    for argument in arguments:
        synchronize()
        start = time.perf_counter()
        function(argument)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
