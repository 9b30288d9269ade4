"""Fast NMS (YOLACT, section 4.1): all boxes are judged at once, so a suppressed box still suppresses others."""

import torch
from torch import Tensor


def fast_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, top_k: int, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best detections of each image after Fast NMS.

    An anchor is a candidate if its best score exceeds `score_threshold`. In each class, the `top_k` best
    candidates are ranked by score. A candidate is dropped if its IoU with any better-ranked candidate, dropped
    or not, exceeds `iou_threshold`. The best `max_detections` of all classes remain. Equal scores rank by class,
    then by anchor.

    Args:
        boxes: [B, A, 4] float32, xyxy in any unit.
        scores: [B, A, C] float32, float16 or bfloat16, without the background, with any strides.
        iou_threshold: IoU above which a box suppresses another, 0–1.
        top_k: largest number of candidates of each class, positive (on CUDA at most 1024).
        score_threshold: a candidate's best score must be greater than this.
        max_detections: M, the size of the output (on CUDA at most 1024).

    Returns:
        indices: [B, M] int64 into the anchors.
        classes: [B, M] int64, from 0.
        scores: [B, M] in the dtype of `scores`, in descending order.
        counts: [B] int64, the number of detections, or −1 if a score of the image is NaN or a kept box is not
            finite.

        Row b holds counts[b] detections. After them, indices and classes are −1 and scores are 0. The shapes do
        not depend on values, so this call does not wait for the CUDA device.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.fast_nms(boxes, scores, iou_threshold, top_k, score_threshold, max_detections)


@torch.library.register_fake("yolact::fast_nms")
def _(
    boxes: Tensor, scores: Tensor, iou_threshold: float, top_k: int, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (boxes.shape[0], max_detections)
    return (
        boxes.new_empty(shape, dtype=torch.long),
        boxes.new_empty(shape, dtype=torch.long),
        scores.new_empty(shape),
        boxes.new_empty(shape[:1], dtype=torch.long),
    )
