"""Mask assembly without a canvas: each mask is cropped to the part that its box allows to be non-empty."""

import torch
from torch import Tensor


def assemble_crops(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """The masks of `assemble_masks` for the same arguments, cropped to the region that each box reaches.

    The upsampling blends each image pixel from several mask pixels. The crop is the smallest rectangle that holds
    every image pixel to which a mask pixel inside the box contributes, where `crop` with a padding of 1 defines
    "inside". The crop depends only on the box. The mask is empty outside it.

    Args:
        prototypes, coefficients, boxes, height, width, threshold: see `assemble_masks`.

    Returns:
        pixels: [P] bool, the pixels of all crops, one crop after the other, each row by row.
        crops: [N, 4] or [B, N, 4] int64, the rectangles: xyxy in pixels, x2 and y2 exclusive. An empty crop is all 0.
        offsets: [B·N + 1] int64. Crop n is pixels[offsets[n] : offsets[n + 1]].

        P depends on the boxes, so this call waits for the CUDA device.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.assemble_crops(prototypes, coefficients, boxes, height, width, threshold)


@torch.library.register_fake("yolact::assemble_crops")
def _(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    pixels = torch.library.get_ctx().new_dynamic_size()
    return (
        boxes.new_empty((pixels,), dtype=torch.bool),
        boxes.new_empty(boxes.shape, dtype=torch.long),
        boxes.new_empty((boxes.shape[:-1].numel() + 1,), dtype=torch.long),
    )
