"""Detections in COCO's results format."""

from collections.abc import Mapping, Sequence
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
        Dicts with image_id, category_id, bbox ([x, y, width, height] in pixels), segmentation (compressed RLE, its
        counts as text), score and box_score, by falling box_score. COCO has one score, by which its server ranks the
        masks of such a file: that is the mask's. `yolact.evaluation.scores` ranks the boxes by box_score; only
        YOLACT++ tells the two apart.
    """
    from pycocotools import mask as rle  # `import yolact` must work without it

    boxes, scores, labels = (getattr(detections, name).tolist() for name in ("boxes", "scores", "labels"))
    # Models exported in format 1 have no scores of their own for masks.
    mask_scores = getattr(detections, "mask_scores", detections.scores).tolist()
    results = []
    columns = zip(boxes, scores, labels, detections.masks, mask_scores, strict=True)
    for (x1, y1, x2, y2), score, label, mask, mask_score in columns:
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
                "score": mask_score,
                "box_score": score,
                "segmentation": {"size": segmentation["size"], "counts": segmentation["counts"].decode("ascii")},
            }
        )
    return results


def box_score(entry: Mapping[str, Any]) -> float:
    """The score of the box of a COCO result, which results of other programs have in common with its mask."""
    return entry.get("box_score", entry["score"])
