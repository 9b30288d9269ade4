"""Fast NMS (YOLACT, section 4.1): every box is judged at once, so a suppressed box still suppresses."""

import torch
from torch import Tensor


def fast_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, top_k: int, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best detections of each image after Fast NMS.

    Anchors whose best score exceeds `score_threshold` are candidates. In each class the `top_k` best
    candidates are ranked by score, and one is dropped if its IoU with any better-ranked one, itself
    dropped or not, exceeds `iou_threshold`. The `max_detections` best of all classes remain.
    Equal scores rank by class, then by anchor.

    Args:
        boxes: [B, A, 4] float32, xyxy in any unit.
        scores: [B, A, C] float32, float16 or bfloat16, without the background; any strides.
        iou_threshold: IoU above which a box suppresses, 0–1.
        top_k: candidates of each class, positive (on CUDA at most 1024).
        score_threshold: a candidate's best score is greater than this.
        max_detections: M, the size of the output (on CUDA at most 1024).

    Returns:
        indices [B, M] int64 into the anchors, classes [B, M] int64 from 0, scores [B, M] in the dtype of
        `scores`, sorted by falling score, and counts [B] int64. Row b holds counts[b] detections, then −1, −1
        and 0. counts[b] is −1 where image b's scores hold a NaN or a kept box is not finite.
        The shapes depend on no value, so CUDA needs no synchronisation.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.fast_nms(boxes, scores, iou_threshold, top_k, score_threshold, max_detections)


@torch.library.register_fake("yolact::fast_nms")
def _(boxes, scores, iou_threshold, top_k, score_threshold, max_detections):
    shape = (boxes.shape[0], max_detections)
    return (
        boxes.new_empty(shape, dtype=torch.long),
        boxes.new_empty(shape, dtype=torch.long),
        scores.new_empty(shape),
        boxes.new_empty(shape[:1], dtype=torch.long),
    )
