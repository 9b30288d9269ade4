"""Detection from raw outputs (YOLACT, section 4): softmax, decoding and Fast NMS of what can survive them."""

import torch
from torch import Tensor


def detect(
    box_deltas: Tensor,
    logits: Tensor,
    anchors: Tensor,
    center_variance: float,
    size_variance: float,
    max_log_scale: float,
    clip: bool,
    iou_threshold: float,
    top_k: int,
    score_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The best detections of each image: `fast_nms` of the softmax of the logits and of the decoded boxes.

    Neither is computed for an anchor that the threshold rules out, nor stored for all of them.

    Args:
        box_deltas: [B, A, 4] float32, float16 or bfloat16: centre x, centre y, width, height, encoded.
        logits: [B, A, 1 + C], of the same dtype, the background first.
        anchors: [A, 4] or [B, A, 4] float32, xyxy.
        center_variance, size_variance: scale of the encoded centres and sizes.
        max_log_scale: clamp of the sizes' scaled deltas; infinite for none.
        clip: clamp the boxes to 0–1 before they are compared.
        iou_threshold, top_k, score_threshold, max_detections: as `fast_nms` has them; the last is M.

    Returns:
        boxes [B, M, 4] float32 in the unit of the anchors, scores [B, M] float32, classes [B, M] int64 from 0, indices
        [B, M] int64 into the anchors, by falling score, and counts [B] int64. Row b holds counts[b] detections, then
        zeros and −1. counts[b] is −1 where the softmax of image b is not finite somewhere, or a kept box is not.
        The shapes depend on no value, so CUDA needs no synchronisation.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.detect(
        box_deltas,
        logits,
        anchors,
        center_variance,
        size_variance,
        max_log_scale,
        clip,
        iou_threshold,
        top_k,
        score_threshold,
        max_detections,
    )


@torch.library.register_fake("yolact::detect")
def _(box_deltas, logits, anchors, *options):
    shape = (box_deltas.shape[0], options[-1])
    return (
        anchors.new_empty((*shape, 4)),
        anchors.new_empty(shape),
        anchors.new_empty(shape, dtype=torch.long),
        anchors.new_empty(shape, dtype=torch.long),
        anchors.new_empty(shape[:1], dtype=torch.long),
    )
