"""Average precision as COCO counts it, through pycocotools."""

import contextlib
import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolact.evaluation.coco import box_score
from yolact.evaluation.dataset import EvaluationSet

_ROWS = (  # field, title, IoU, area, detections of an image, as COCO prints them
    ("ap", "Average Precision", "0.50:0.95", "all", 100),
    ("ap50", "Average Precision", "0.50", "all", 100),
    ("ap75", "Average Precision", "0.75", "all", 100),
    ("ap_small", "Average Precision", "0.50:0.95", "small", 100),
    ("ap_medium", "Average Precision", "0.50:0.95", "medium", 100),
    ("ap_large", "Average Precision", "0.50:0.95", "large", 100),
    ("ar1", "Average Recall", "0.50:0.95", "all", 1),
    ("ar10", "Average Recall", "0.50:0.95", "all", 10),
    ("ar100", "Average Recall", "0.50:0.95", "all", 100),
    ("ar_small", "Average Recall", "0.50:0.95", "small", 100),
    ("ar_medium", "Average Recall", "0.50:0.95", "medium", 100),
    ("ar_large", "Average Recall", "0.50:0.95", "large", 100),
)


@dataclass(frozen=True)
class Summary:
    """COCO's twelve numbers, 0–100; −1 where there is no such object.

    Small is an area under 32² pixels, large one over 96².
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float

    def table(self) -> str:
        """The lines that COCO's own program prints."""
        return "\n".join(
            f" {title:<18} {'(AP)' if title.endswith('sion') else '(AR)'} "
            f"@[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] = {_part(getattr(self, field)):0.3f}"
            for field, title, iou, area, most in _ROWS
        )


@dataclass(frozen=True)
class ClassScore:
    """Of one class: mask AP and box AP, 0–100, −1 where it has no object; and how many objects it has."""

    name: str
    objects: int
    mask_ap: float
    mask_ap50: float
    box_ap: float


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        mask, box: over all classes.
        classes: one by one.
        quality: by image id, 0–1: twice the objects found, over the detections and objects together (F1), by masks
            of IoU 0.5 and scores above 0.3; 1 where there is nothing and nothing was found.
    """

    mask: Summary
    box: Summary
    classes: tuple[ClassScore, ...]
    quality: dict[int, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without `quality`."""
        return {
            "mask": asdict(self.mask),
            "box": asdict(self.box),
            "classes": [asdict(score) for score in self.classes],
        }

    def markdown(self) -> str:
        """A report with the classes from best to worst."""
        lines = [
            "| | AP | AP50 | AP75 | small | medium | large |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, summary in (("mask", self.mask), ("box", self.box)):
            values = (getattr(summary, field) for field, *_ in _ROWS[:6])
            lines.append(f"| {name} | {' | '.join(map(_shown, values))} |")
        lines += ["", "| class | objects | mask AP | mask AP50 | box AP |", "|---|---|---|---|---|"]
        for score in sorted(self.classes, key=lambda score: -score.mask_ap):
            values = (score.mask_ap, score.mask_ap50, score.box_ap)
            lines.append(f"| {score.name} | {score.objects} | {' | '.join(map(_shown, values))} |")
        return "\n".join(lines) + "\n"


def score(evaluation_set: EvaluationSet, results: list[dict[str, Any]], quality_threshold: float = 0.3) -> Scores:
    """Box and mask AP of COCO results, boxes ranked by their scores and masks by theirs.

    Args:
        evaluation_set: with ground truth; only its images count.
        results: what `coco_results` gave for these images.
        quality_threshold: detections whose masks score above this count for `Scores.quality`.

    Raises:
        ValueError: if there is no ground truth.
    """
    if evaluation_set.truth is None:
        raise ValueError("there is no ground truth to compare with: the annotation file holds no annotations")
    mask, mask_by_class, quality = _evaluate(evaluation_set, results, "segm", quality_threshold)
    box, box_by_class, _ = _evaluate(evaluation_set, results, "bbox", quality_threshold)
    counts = dict.fromkeys(evaluation_set.category_ids, 0)
    wanted = set(evaluation_set.image_ids)
    for annotation in evaluation_set.truth.anns.values():
        if annotation["image_id"] in wanted and not annotation.get("iscrowd", 0):
            counts[annotation["category_id"]] += 1
    classes = tuple(
        ClassScore(name, counts[category], *mask_by_class[i], box_by_class[i][0])
        for i, (name, category) in enumerate(zip(evaluation_set.class_names, evaluation_set.category_ids, strict=True))
    )
    return Scores(mask, box, classes, quality)


def _evaluate(
    evaluation_set: EvaluationSet, results: list[dict[str, Any]], kind: str, quality_threshold: float
) -> tuple[Summary, list[tuple[float, float]], dict[int, float]]:
    truth = evaluation_set.truth
    # With a box beside its mask, pycocotools would take a detection's area from the box.
    dropped = "bbox" if kind == "segm" else "segmentation"
    entries = [{key: value for key, value in entry.items() if key != dropped} for entry in results]
    if kind == "bbox":
        entries = [{**entry, "score": box_score(entry)} for entry in entries]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset.setdefault("info", {})
        found = truth.loadRes(entries) if entries else _nothing(truth)
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = sorted(evaluation_set.image_ids)
        evaluation.params.catIds = list(evaluation_set.category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    summary = Summary(*(_percent(value) for value in evaluation.stats))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class
    by_class = [(_mean(precision[:, :, i]), _mean(precision[0, :, i])) for i in range(precision.shape[2])]
    return summary, by_class, _quality(evaluation, quality_threshold)


def _nothing(truth: COCO) -> COCO:
    """The results of a detector that found nothing, which `loadRes` does not take."""
    empty = COCO()
    empty.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty


def _quality(evaluation: COCOeval, threshold: float) -> dict[int, float]:
    found = dict.fromkeys(evaluation.params.imgIds, 0)
    total = dict(found)
    everything = evaluation.params.areaRng[0]
    for entry in evaluation.evalImgs:
        if entry is None or entry["aRng"] != everything:
            continue
        counted = (np.asarray(entry["dtScores"]) > threshold) & ~entry["dtIgnore"][0].astype(bool)
        found[entry["image_id"]] += int((counted & (entry["dtMatches"][0] > 0)).sum())
        total[entry["image_id"]] += int(counted.sum() + (1 - np.asarray(entry["gtIgnore"])).sum())
    return {image: 2 * found[image] / total[image] if total[image] else 1.0 for image in total}


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return _percent(known.mean()) if known.size else -1.0


def _percent(value: float) -> float:
    return float(value) * 100 if value >= 0 else -1.0


def _part(value: float) -> float:
    return value / 100 if value >= 0 else value


def _shown(value: float) -> str:
    return f"{value:.1f}" if value >= 0 else "–"
