"""Mask assembly without a canvas: each mask as the run lengths that COCO stores."""

import torch
from torch import Tensor


def assemble_runs(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The run lengths of what `assemble_masks` gives for the same arguments.

    They go down the columns, from the left one to the right, and are alternately of pixels outside and inside the
    object, beginning with those outside, of which there may be 0. Those of a mask add up to height · width. This is
    what pycocotools calls uncompressed RLE.

    Args:
        prototypes, coefficients, boxes, height, width, threshold: as `assemble_masks` has them.

    Returns:
        counts [R] int64: the runs of all masks one after the other; offsets [B·N + 1] int64: those of mask n are
        counts[offsets[n] : offsets[n + 1]]. R depends on the masks, so CUDA is waited for.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.assemble_runs(prototypes, coefficients, boxes, height, width, threshold)


@torch.library.register_fake("yolact::assemble_runs")
def _(prototypes, coefficients, boxes, height, width, threshold=0.5):
    return (
        boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.long),
        boxes.new_empty((boxes.shape[:-1].numel() + 1,), dtype=torch.long),
    )
