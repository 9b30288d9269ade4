"""Detections in COCO's results format."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from yolact.models.detector import Detections


def coco_results(
    detections: Detections, image_id: int, category_ids: Sequence[int | None] | None = None
) -> list[dict[str, Any]]:
    """One entry a detection, ready for `json.dump` and for pycocotools' `loadRes`.

    Args:
        detections: of one image, on any device; tensors or, as the C++ runtime gives them, arrays.
        image_id: COCO's id of the image.
        category_ids: COCO's id of each label, None for one to be left out; label + 1 by default.

    Returns:
        Dicts with image_id, category_id, bbox ([x, y, width, height] in pixels), score and segmentation
        (compressed RLE, its counts as text).
    """
    from pycocotools import mask as rle  # `import yolact` must work without it

    boxes, scores, labels = (getattr(detections, name).tolist() for name in ("boxes", "scores", "labels"))
    results = []
    for (x1, y1, x2, y2), score, label, mask in zip(boxes, scores, labels, detections.masks, strict=True):
        category = label + 1 if category_ids is None else category_ids[label]
        if category is None:
            continue
        pixels = mask.cpu().numpy() if isinstance(mask, torch.Tensor) else mask
        segmentation = rle.encode(np.asfortranarray(pixels.view(np.uint8)))
        results.append(
            {
                "image_id": image_id,
                "category_id": category,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
                "segmentation": {"size": segmentation["size"], "counts": segmentation["counts"].decode("ascii")},
            }
        )
    return results
