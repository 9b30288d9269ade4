"""Detections in COCO's results format."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from yolact.models.detections import Detections, EncodedDetections


def coco_results(
    detections: Detections | EncodedDetections, image_id: int, category_ids: Sequence[int | None] | None = None
) -> list[dict[str, Any]]:
    """One entry for each detection, ready for `json.dump` and for pycocotools' `loadRes`.

    Args:
        detections: of one image, on any device. With run lengths no mask has to be encoded, which takes less time; the
            entries are the same.
        image_id: COCO's id of the image.
        category_ids: COCO's id for each label, or None for a label that is left out; label + 1 by default.

    Returns:
        Dicts with image_id, category_id, bbox ([x, y, width, height] in pixels), segmentation (compressed RLE with
        its counts as text), score and box_score, by falling box_score. COCO has one score, and its server ranks masks
        by it, so `score` is the mask's score. `yolact.evaluation.scores` ranks boxes by `box_score`. The two differ
        only for YOLACT++.

        pycocotools takes an entry's area from its bbox if it has one. Remove bbox before you evaluate masks by size:
        otherwise a mask counts as large because its box is large.
    """
    columns = (detections.boxes, detections.scores, detections.labels, detections.mask_scores)
    rows = zip(*(column.tolist() for column in columns), _segmentations(detections), strict=True)
    results = []
    for (x1, y1, x2, y2), score, label, mask_score, segmentation in rows:
        category = label + 1 if category_ids is None else category_ids[label]
        if category is None:
            continue
        results.append(
            {
                "image_id": image_id,
                "category_id": category,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": mask_score,
                "box_score": score,
                "segmentation": {"size": segmentation["size"], "counts": segmentation["counts"].decode("ascii")},
            }
        )
    return results


def _segmentations(detections: Detections | EncodedDetections) -> Iterator[dict[str, Any]]:
    """Each mask as pycocotools' compressed RLE."""
    from pycocotools import mask as rle  # `import yolact` must work without it

    if isinstance(detections, Detections):
        for mask in detections.masks:
            yield rle.encode(np.asfortranarray(mask.cpu().numpy().view(np.uint8)))
        return
    counts, offsets = detections.counts.cpu().numpy(), detections.offsets.cpu().numpy()
    height, width = detections.height, detections.width
    for begin, end in pairwise(offsets):
        yield rle.frPyObjects({"size": [height, width], "counts": counts[begin:end]}, height, width)


def box_score(entry: Mapping[str, Any]) -> float:
    """The score of the box of a COCO result; results of other programs have one score for box and mask."""
    return entry.get("box_score", entry["score"])
