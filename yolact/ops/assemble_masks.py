"""Mask assembly (YOLACT, section 3.3) in one pass: combine, sigmoid, crop, upsample, threshold."""

import torch
from torch import Tensor


def assemble_masks(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    """Masks of the detections at image size.

    sigmoid(prototypes · coefficients), zero outside the box as `crop` with a padding of 1 leaves it, resized
    bilinearly (align_corners=False) to the image and compared with `threshold`. Only what lies inside a box is
    computed; nothing of image size but the result is ever stored.

    Args:
        prototypes: [h, w, K] or [B, h, w, K] float32, float16 or bfloat16.
        coefficients: [N, K] or [B, N, K], same dtype.
        boxes: [N, 4] or [B, N, 4] float32, xyxy relative to the image (0–1, may reach beyond).
        height, width: size of the image in pixels.
        threshold: a pixel is set where its value is greater; 0–1.

    Returns:
        [N, height, width] or [B, N, height, width] bool.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.assemble_masks(prototypes, coefficients, boxes, height, width, threshold)


@torch.library.register_fake("yolact::assemble_masks")
def _(prototypes, coefficients, boxes, height, width, threshold=0.5):
    return boxes.new_empty((*boxes.shape[:-1], height, width), dtype=torch.bool)
