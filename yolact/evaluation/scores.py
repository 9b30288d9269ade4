"""Average precision as COCO counts it, through pycocotools."""

import contextlib
import io
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolact.evaluation.coco import box_score
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.results import Results

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


_IMAGES_AT_ONCE = 100


@dataclass(frozen=True)
class Summary:
    """COCO's twelve numbers, 0–100, or −1 if there is no such object.

    An object is small if its area is below 32² pixels, and large if it is above 96².
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
    """Mask AP and box AP of one class, 0–100, or −1 if it has no object, and the number of its objects."""

    name: str
    objects: int
    mask_ap: float
    mask_ap50: float
    box_ap: float


@dataclass(frozen=True)
class Scores:
    """The scores of a model on an `EvaluationSet`.

    Attributes:
        mask, box: over all classes.
        classes: of each class.
        quality: of each image, by its id: the F1 score, 0–1, of its detections with a score above 0.3, where a mask
            of IoU 0.5 finds an object; 1 if there is neither an object nor a detection.
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
            columns = (getattr(summary, field) for field, *_ in _ROWS[:6])
            lines.append(f"| {name} | {' | '.join(map(_shown, columns))} |")
        lines += ["", "| class | objects | mask AP | mask AP50 | box AP |", "|---|---|---|---|---|"]
        for score in sorted(self.classes, key=lambda score: -score.mask_ap):
            values = (score.mask_ap, score.mask_ap50, score.box_ap)
            lines.append(f"| {score.name} | {score.objects} | {' | '.join(map(_shown, values))} |")
        return "\n".join(lines) + "\n"


def score(
    evaluation_set: EvaluationSet, results: Results | Iterable[dict[str, Any]], quality_threshold: float = 0.3
) -> Scores:
    """Box and mask AP of COCO results; boxes are ranked by their own scores, and masks by theirs.

    Images are compared with their truth a few at a time, and then pycocotools counts over all of them. Between these
    steps memory holds 48 bytes for each detection, and 128 for each class of an image that has objects or detections
    of it.

    Args:
        evaluation_set: with ground truth; only its images count, and of these only those that could be read.
        results: of `segment_all` for these images, or entries as `coco_results` gives them.
        quality_threshold: `Scores.quality` counts the detections whose masks have a higher score.

    Raises:
        ValueError: if there is no ground truth, or none of the images could be read.
    """
    truth = evaluation_set.require_truth()
    if not isinstance(results, Results):
        results = Results(results)
    evaluation_set = evaluation_set.without(results.left_out)
    if not evaluation_set.image_ids:
        raise ValueError("none of the images could be read, so there is no score")
    mask, mask_by_class, quality = _evaluate(evaluation_set, results, "segm", quality_threshold)
    box, box_by_class, _ = _evaluate(evaluation_set, results, "bbox", quality_threshold)
    counts = dict.fromkeys(evaluation_set.category_ids, 0)
    wanted = set(evaluation_set.image_ids)
    for annotation in truth.anns.values():
        if annotation["image_id"] in wanted and not annotation.get("iscrowd", 0):
            counts[annotation["category_id"]] += 1
    classes = tuple(
        ClassScore(name, counts[category], *mask_by_class[i], box_by_class[i][0])
        for i, (name, category) in enumerate(zip(evaluation_set.class_names, evaluation_set.category_ids, strict=True))
    )
    return Scores(mask, box, classes, quality)


def _evaluate(
    evaluation_set: EvaluationSet, results: Results, kind: str, quality_threshold: float
) -> tuple[Summary, list[tuple[float, float]], dict[int, float]]:
    truth = evaluation_set.require_truth()
    truth.dataset.setdefault("info", {})
    image_ids = sorted(set(evaluation_set.image_ids))
    whole = _Evaluation(iouType=kind)
    whole.params.imgIds, whole.params.catIds = image_ids, sorted(evaluation_set.category_ids)
    quality: dict[int, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for begin in range(0, len(image_ids), _IMAGES_AT_ONCE):
            some = image_ids[begin : begin + _IMAGES_AT_ONCE]
            entries = [_entry_for(entry, kind) for image_id in some for entry in results.of_image(image_id)]
            detections = truth.loadRes(entries) if entries else _nothing(truth)
            part = COCOeval(truth, detections, kind)
            part.params.imgIds, part.params.catIds = some, whole.params.catIds
            part.evaluate()
            quality.update(_quality(part, quality_threshold))
            whole.add(part, begin)
        whole.accumulate()
        whole.summarize()
    summary = Summary(*(_percent(value) for value in whole.stats))
    precision = whole.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class
    by_class = [(_mean(precision[:, :, i]), _mean(precision[0, :, i])) for i in range(precision.shape[2])]
    return summary, by_class, quality


def _entry_for(entry: dict[str, Any], kind: str) -> dict[str, Any]:
    # If an entry has a box and a mask, pycocotools takes the detection's area from the box.
    dropped = "bbox" if kind == "segm" else "segmentation"
    rank = entry["score"] if kind == "segm" else box_score(entry)
    return {**{key: value for key, value in entry.items() if key != dropped}, "score": rank}


class _Evaluation(COCOeval):
    """Adds up evaluations of a few images each, and keeps of them only what counting needs.

    pycocotools' own `evalImgs` is a dict with ten arrays and lists for each class and area range of each image.
    """

    def __init__(self, iouType: str):
        super().__init__(iouType=iouType)
        self._paramsEval = self.params
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, part: COCOeval, first_image: int) -> None:
        """Adds `part`, whose `evaluate` was called; `first_image` is the number of its first image."""
        images, kept = len(part.params.imgIds), []
        for number, entry in enumerate(part.evalImgs):
            if entry is not None:
                row, image = divmod(number, images)
                kept.append((row * len(self.params.imgIds) + first_image + image, entry))
        if not kept:
            return
        entries = [entry for _, entry in kept]
        self._parts.append(
            (
                np.array([index for index, _ in kept]),
                np.array([len(entry["dtScores"]) for entry in entries]),
                np.array([np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0) for entry in entries]),
                np.concatenate([entry["dtScores"] for entry in entries]),
                *(
                    np.packbits(np.concatenate([entry[key] for entry in entries], axis=1) != 0, axis=0)
                    for key in ("dtMatches", "dtIgnore")
                ),
            )
        )

    def accumulate(self, p: Any = None) -> None:
        self.evalImgs = _PackedEntries(self._parts, len(self.params.iouThrs))
        self._parts = []
        super().accumulate(p)


class _PackedEntries:
    """Takes the place of `COCOeval.evalImgs` and makes each entry when it is asked for."""

    def __init__(self, parts: list[tuple[np.ndarray, ...]], thresholds: int):
        self._thresholds = thresholds
        if not parts:
            parts = [(np.zeros(0, int),) * 3 + (np.zeros(0),) + (np.zeros((2, 0), np.uint8),) * 2]
        columns = [np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)]
        index, counts, truths, self._scores, self._matches, self._ignored = columns
        order = np.argsort(index)
        self._index = array("q", index[order].tobytes())
        self._begins, self._ends = (bounds[order] for bounds in (counts.cumsum() - counts, counts.cumsum()))
        self._truths = truths[order]

    def __getitem__(self, index: int) -> dict[str, np.ndarray] | None:
        place = bisect_left(self._index, index)
        if place == len(self._index) or self._index[place] != index:
            return None
        rows = slice(self._begins[place], self._ends[place])
        return {
            "dtScores": self._scores[rows],
            "dtMatches": np.unpackbits(self._matches[:, rows], axis=0, count=self._thresholds),
            "dtIgnore": np.unpackbits(self._ignored[:, rows], axis=0, count=self._thresholds),
            "gtIgnore": np.zeros(self._truths[place]),  # ignored objects no longer matter here
        }


def _nothing(truth: COCO) -> COCO:
    """The results of a detector that found nothing; `loadRes` does not accept an empty list."""
    empty = COCO()
    empty.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty


def _quality(evaluation: COCOeval, threshold: float) -> dict[int, float]:
    matched = dict.fromkeys(evaluation.params.imgIds, 0)
    total = dict(matched)
    everything = evaluation.params.areaRng[0]
    for entry in evaluation.evalImgs:
        if entry is None or entry["aRng"] != everything:
            continue
        counted = (np.asarray(entry["dtScores"]) > threshold) & ~entry["dtIgnore"][0].astype(bool)
        matched[entry["image_id"]] += int((counted & (entry["dtMatches"][0] > 0)).sum())
        total[entry["image_id"]] += int(counted.sum() + (1 - np.asarray(entry["gtIgnore"])).sum())
    return {image: 2 * matched[image] / total[image] if total[image] else 1.0 for image in total}


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return _percent(known.mean()) if known.size else -1.0


def _percent(value: float) -> float:
    return float(value) * 100 if value >= 0 else -1.0


def _part(value: float) -> float:
    return value / 100 if value >= 0 else value


def _shown(value: float) -> str:
    return f"{value:.1f}" if value >= 0 else "–"
