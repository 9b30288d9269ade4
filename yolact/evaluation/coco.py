"""Detections in COCO's results format."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from yolact.models.detector import Detections


def coco_results(
    detections: Detections, image_id: int, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """One entry a detection, ready for `json.dump` and for pycocotools' `loadRes`.

    Args:
        detections: of one image, on any device.
        image_id: COCO's id of the image.
        category_ids: COCO's id of each label; label + 1 by default.

    Returns:
        Dicts with image_id, category_id, bbox ([x, y, width, height] in pixels), score and segmentation
        (compressed RLE, its counts as text).
    """
    boxes = detections.boxes.tolist()
    entries = zip(detections.labels.tolist(), detections.scores.tolist(), boxes, detections.masks, strict=True)
    results = []
    for label, score, (x1, y1, x2, y2), mask in entries:
        segmentation = rle.encode(np.asfortranarray(mask.cpu().numpy().view(np.uint8)))
        results.append(
            {
                "image_id": image_id,
                "category_id": label + 1 if category_ids is None else category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
                "segmentation": {"size": segmentation["size"], "counts": segmentation["counts"].decode("ascii")},
            }
        )
    return results
