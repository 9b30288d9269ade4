"""Mask assembly without a canvas: each mask becomes the run lengths that COCO stores."""

import torch
from torch import Tensor


def assemble_runs(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The run lengths of the masks that `assemble_masks` makes from the same arguments.

    The runs go down each column, and through the columns from left to right. They are outside and inside the object
    in turn; the first one is outside and may be 0. The runs of a mask add up to height · width. pycocotools calls
    this form uncompressed RLE.

    Args:
        prototypes, coefficients, boxes, height, width, threshold: see `assemble_masks`.

    Returns:
        counts: [R] int64, the run lengths of all masks, one mask after the other.
        offsets: [B·N + 1] int64. The runs of mask n are counts[offsets[n] : offsets[n + 1]].

        R depends on the masks, so this call waits for the CUDA device.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.assemble_runs(prototypes, coefficients, boxes, height, width, threshold)


@torch.library.register_fake("yolact::assemble_runs")
def _(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    return (
        boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.long),
        boxes.new_empty((boxes.shape[:-1].numel() + 1,), dtype=torch.long),
    )
