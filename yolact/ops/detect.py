"""Detection from raw outputs (YOLACT, section 4): softmax, box decoding and Fast NMS."""

from typing import Any

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
    """The best detections of each image: `fast_nms` of the decoded boxes and the softmax of the logits.

    Anchors that the threshold rules out are skipped. Boxes and probabilities of all anchors are never stored.

    Args:
        box_deltas: [B, A, 4] float32, float16 or bfloat16: encoded centre x, centre y, width and height.
        logits: [B, A, 1 + C], dtype of `box_deltas`; the background is first.
        anchors: [A, 4] or [B, A, 4] float32, xyxy.
        center_variance, size_variance: scale of the encoded centres and sizes.
        max_log_scale: largest absolute value of a size's scaled delta; infinite for no limit.
        clip: whether the boxes are clamped to 0–1 before they are compared.
        iou_threshold, top_k, score_threshold, max_detections: see `fast_nms`; max_detections is M.

    Returns:
        boxes: [B, M, 4] float32, xyxy in the unit of the anchors.
        scores: [B, M] float32, in descending order.
        classes: [B, M] int64; the first class after the background is 0.
        indices: [B, M] int64 into the anchors.
        counts: [B] int64, the number of detections, or −1 if a probability or a kept box of the image is not finite.

        Row b holds counts[b] detections. After them, boxes and scores are 0, classes and indices −1. The shapes do
        not depend on values, so this call does not wait for the CUDA device.

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
def _(box_deltas: Tensor, logits: Tensor, anchors: Tensor, *options: Any) -> tuple[Tensor, ...]:
    shape = (box_deltas.shape[0], options[-1])
    return (
        anchors.new_empty((*shape, 4)),
        anchors.new_empty(shape),
        anchors.new_empty(shape, dtype=torch.long),
        anchors.new_empty(shape, dtype=torch.long),
        anchors.new_empty(shape[:1], dtype=torch.long),
    )
