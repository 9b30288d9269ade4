"""Mask assembly without a canvas: of each mask the part that its box lets be anything but empty."""

import torch
from torch import Tensor


def assemble_crops(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """What `assemble_masks` gives for the same arguments, cut down to what the boxes reach.

    The crop of a mask is the smallest rectangle that holds every pixel of the image which is blended from a mask pixel
    inside the box, as `crop` with a padding of 1 counts them. It hangs on the box alone; outside it the mask is empty.

    Args:
        prototypes, coefficients, boxes, height, width, threshold: as `assemble_masks` has them.

    Returns:
        pixels [P] bool: the crops one after the other, each row by row; crops [N, 4] or [B, N, 4] int64, where they
        lie, xyxy in pixels, x2 and y2 exclusive, all 0 for an empty one; offsets [B·N + 1] int64: crop n is
        pixels[offsets[n] : offsets[n + 1]]. P depends on the boxes, so CUDA is waited for.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.assemble_crops(prototypes, coefficients, boxes, height, width, threshold)


@torch.library.register_fake("yolact::assemble_crops")
def _(prototypes, coefficients, boxes, height, width, threshold=0.5):
    pixels = torch.library.get_ctx().new_dynamic_size()
    return (
        boxes.new_empty((pixels,), dtype=torch.bool),
        boxes.new_empty(boxes.shape, dtype=torch.long),
        boxes.new_empty((boxes.shape[:-1].numel() + 1,), dtype=torch.long),
    )
