"""Evaluation of a `Segmenter`: its results for all images, the worst of them as pictures, and its speed."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolact.data.images import ImageError
from yolact.evaluation.coco import box_score, coco_results
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.results import Results
from yolact.files import make_folder, write_picture
from yolact.models.detections import EncodedDetections
from yolact.run_lengths import runs_of
from yolact.segmenters import Segmenter
from yolact.visualize import draw


def segment_all(
    segmenter: Segmenter, evaluation_set: EvaluationSet, seen: Callable[[], bool] = lambda: True
) -> Results:
    """COCO results for every image. They go to a file at once, so memory does not grow with them.

    Images that cannot be read are left out, see `Results.left_out`.

    Args:
        segmenter: its thresholds stay as they are.
        evaluation_set: the images.
        seen: called after each image; evaluation ends early if it returns False.

    Raises:
        ValueError: if no class of the model is a category.
        OSError: if the results cannot be written.
    """
    categories = evaluation_set.categories_of(segmenter.class_names)
    results = Results()
    for image_id, image in evaluation_set.read_images():
        if isinstance(image, ImageError):
            results.left_out[image_id] = str(image)
        else:
            results.add(coco_results(segmenter.forward_encoded([image])[0], image_id, categories))
        if not seen():
            break
    return results


def detections_of(results: Sequence[dict[str, Any]], category_ids: Sequence[int]) -> EncodedDetections:
    """COCO results of one image as detections, labelled by their place in `category_ids`.

    Without results, the size of the image is not known and is given as 1 × 1.
    """
    ordered = sorted(results, key=lambda entry: -box_score(entry))
    boxes = torch.tensor([entry["bbox"] for entry in ordered]).view(-1, 4)
    segmentations = [entry["segmentation"] for entry in ordered]
    height, width = segmentations[0]["size"] if segmentations else (1, 1)
    texts = (segmentation["counts"] for segmentation in segmentations)
    runs = [runs_of(text.encode("ascii") if isinstance(text, str) else text) for text in texts]
    return EncodedDetections(
        boxes=torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1),
        scores=torch.tensor([box_score(entry) for entry in ordered]),
        labels=torch.tensor([category_ids.index(entry["category_id"]) for entry in ordered], dtype=torch.long),
        mask_scores=torch.tensor([entry["score"] for entry in ordered]),
        height=height,
        width=width,
        counts=torch.from_numpy(np.concatenate(runs or [np.zeros(0, np.int64)])),
        offsets=torch.tensor([0, *accumulate(map(len, runs))]),
    )


def truth_of(evaluation_set: EvaluationSet, image_id: int) -> EncodedDetections:
    """The objects of an image, without crowds, as detections of score 1."""
    truth = evaluation_set.require_truth()
    entries = []
    for annotation in truth.imgToAnns[image_id]:
        if not annotation.get("iscrowd", 0):
            entries.append({**annotation, "score": 1.0, "segmentation": truth.annToRLE(annotation)})
    return detections_of(entries, evaluation_set.category_ids)


def beside_truth(
    evaluation_set: EvaluationSet, image_id: int, results: Sequence[dict[str, Any]], score_threshold: float = 0.3
) -> Tensor:
    """The image with those of its `results` whose box score is above the threshold, and to its right with the truth.

    Returns:
        uint8 RGB [3, H, 2·W + 4].
    """
    image = evaluation_set.reading.read(evaluation_set.paths[evaluation_set.image_ids.index(image_id)])
    shown = [entry for entry in results if box_score(entry) > score_threshold]
    names = list(evaluation_set.class_names)
    height, width = image.shape[:2]
    picture = torch.full((3, height, 2 * width + 4), 255, dtype=torch.uint8)
    picture[:, :, :width] = draw(image, detections_of(shown, evaluation_set.category_ids), names)
    picture[:, :, width + 4 :] = draw(image, truth_of(evaluation_set, image_id), names)
    return picture


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
        results: of all these images.
        quality: by image id.
        count: of pictures.
        folder: created if it is missing.

    Returns:
        The paths of the pictures, the worst first.
    """
    make_folder(folder)
    pictures = []
    for rank, image_id in enumerate(sorted(quality, key=quality.__getitem__)[:count], start=1):
        picture = beside_truth(evaluation_set, image_id, results.of_image(image_id))
        pictures.append(folder / f"{rank:03d}_{quality[image_id]:.2f}_{image_id}.png")
        write_picture(pictures[-1], picture)
    return pictures


@dataclass(frozen=True)
class Speed:
    """Images a second, as the papers count them: the median over single images in memory, without drawing.

    network: through the network alone; None if it cannot be called alone.
    end_to_end: from the pixels of an image to its boxes and its masks at its size.
    """

    network: float | None
    end_to_end: float


@torch.no_grad()
def measure_speed(segmenter: Segmenter, evaluation_set: EvaluationSet, images: int = 50, warm_up: int = 5) -> Speed:
    """The speed of `segmenter` on the first images, one at a time.

    Images that cannot be read are left out.
    """
    pictures = [image for _, image in islice(evaluation_set.read_images(), images) if isinstance(image, Tensor)]
    stages, device = segmenter.stages(), segmenter.device
    network = None
    if stages is not None:
        inputs = [stages.preprocess(image) for image in pictures]
        network = 1 / _median_seconds(stages.model, inputs, device, warm_up)
    return Speed(network, 1 / _median_seconds(segmenter, pictures, device, warm_up))


def _median_seconds(
    function: Callable[[Tensor], Any], arguments: Sequence[Tensor], device: torch.device, warm_up: int
) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    for number in range(warm_up):
        function(arguments[number % len(arguments)])
    seconds = []
    for argument in arguments:
        start = now()
        function(argument)
        seconds.append(now() - start)
    return statistics.median(seconds)
