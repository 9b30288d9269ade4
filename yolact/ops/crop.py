"""Cropping of masks to their boxes (YOLACT, section 3.3), with gradient."""

from typing import Any

import torch
from torch import Tensor


def crop(masks: Tensor, boxes: Tensor, padding: int = 1) -> Tensor:
    """Sets `masks` to zero outside the padded boxes.

    Column j of w is inside if max(min(x1, x2)·w − padding, 0) ≤ j < min(max(x1, x2)·w + padding, w). The same rule
    holds for rows.

    Args:
        masks: [..., h, w], any floating dtype.
        boxes: [..., 4] float32, xyxy relative to the mask (0–1, may reach beyond); NaN gives an empty mask.
        padding: mask pixels added on each side, not negative.

    Returns:
        A new tensor like `masks`. The gradient flows to `masks` inside the boxes, never to `boxes`.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.crop(masks, boxes, padding)


@torch.library.register_fake("yolact::crop")
def _(masks: Tensor, boxes: Tensor, padding: int = 1) -> Tensor:
    return torch.empty_like(masks, memory_format=torch.contiguous_format)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, boxes, ctx.padding = inputs
    ctx.save_for_backward(boxes)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (boxes,) = ctx.saved_tensors
    return crop(gradient, boxes, ctx.padding), None, None


torch.library.register_autograd("yolact::crop", _backward, setup_context=_remember)
