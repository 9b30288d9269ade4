"""Detections in COCO's results format."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from yolact.models.detector import Detections, EncodedDetections


def coco_results(
    detections: Detections | EncodedDetections, image_id: int, category_ids: Sequence[int | None] | None = None
) -> list[dict[str, Any]]:
    """One entry a detection, ready for `json.dump` and for pycocotools' `loadRes`.

    Args:
        detections: of one image, on any device; tensors or, as the C++ runtime gives them, arrays. Run lengths save
            making masks and encoding them; the entries are the same.
        image_id: COCO's id of the image.
        category_ids: COCO's id of each label, None for one to be left out; label + 1 by default.

    Returns:
        Dicts with image_id, category_id, bbox ([x, y, width, height] in pixels), segmentation (compressed RLE, its
        counts as text), score and box_score, by falling box_score. COCO has one score, by which its server ranks the
        masks of such a file: that is the mask's. `yolact.evaluation.scores` ranks the boxes by box_score; only
        YOLACT++ tells the two apart.
    """
    boxes, scores, labels = (getattr(detections, name).tolist() for name in ("boxes", "scores", "labels"))
    # Models exported in format 1 have no scores of their own for masks.
    mask_scores = getattr(detections, "mask_scores", detections.scores).tolist()
    results = []
    columns = zip(boxes, scores, labels, mask_scores, _segmentations(detections), strict=True)
    for (x1, y1, x2, y2), score, label, mask_score, segmentation in columns:
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

    if not hasattr(detections, "counts"):
        for mask in detections.masks:
            yield rle.encode(np.asfortranarray(_on_host(mask).view(np.uint8)))
        return
    counts, offsets = _on_host(detections.counts), _on_host(detections.offsets)
    height, width = detections.height, detections.width
    for begin, end in pairwise(offsets):
        yield rle.frPyObjects({"size": [height, width], "counts": counts[begin:end]}, height, width)


def _on_host(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def box_score(entry: Mapping[str, Any]) -> float:
    """The score of the box of a COCO result, which results of other programs have in common with its mask."""
    return entry.get("box_score", entry["score"])
