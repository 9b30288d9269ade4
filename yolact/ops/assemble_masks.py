"""Mask assembly (YOLACT, section 3.3) in one pass: combine, sigmoid, crop, upsample, threshold."""

import torch
from torch import Tensor


def assemble_masks(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    """Masks of the detections at image size.

    A mask is sigmoid(prototypes · coefficients), cropped to its box (see `crop`, with a padding of 1), resized
    bilinearly (align_corners=False) to the image and compared with `threshold`. Only the inside of each box is
    computed, and nothing of image size is stored except the result.

    Args:
        prototypes: [h, w, K] or [B, h, w, K] float32, float16 or bfloat16.
        coefficients: [N, K] or [B, N, K], dtype of `prototypes`.
        boxes: [N, 4] or [B, N, 4] float32, xyxy relative to the image (0–1, may reach beyond).
        height, width: size of the image in pixels.
        threshold: a pixel is True if its value is greater than this, 0–1.

    Returns:
        [N, height, width] or [B, N, height, width] bool.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.assemble_masks(prototypes, coefficients, boxes, height, width, threshold)


@torch.library.register_fake("yolact::assemble_masks")
def _(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    return boxes.new_empty((*boxes.shape[:-1], height, width), dtype=torch.bool)
