"""The sampling half of a modulated deformable convolution (DCNv2, Zhu et al., arXiv:1811.11168), with gradient."""

from typing import Any

import torch
from torch import Tensor


def deform_columns(
    input: Tensor,
    offsets: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """The samples that each tap of a deformable convolution takes. Their product with the weights is the convolution.

    Tap t = K·i + j of the output pixel (r, c) samples `input` bilinearly at
    (r·stride − padding + i·dilation + y, c·stride − padding + j·dilation + x), where (y, x) are its offsets. `input`
    is zero outside its borders. The sample is multiplied by the tap's value of `mask`.

    Args:
        input: [B, H, W, C] float32, float16, bfloat16 or float64.
        offsets: [B, h, w, 2·K²] float32 (float64 if `input` is float64), y and x of each tap, in pixels of the input.
        mask: [B, h, w, K²], dtype of `offsets`.
        kernel_size: K.
        stride, padding, dilation: as in a convolution; they determine h and w.

    Returns:
        [B, h, w, K²·C], dtype of `input`: the channels of the first tap, then of the second, …

        All three tensors receive a gradient. At a whole pixel, where interpolation has a kink, the gradient of the
        offsets is the derivative from the right.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.deform_columns(input, offsets, mask, kernel_size, stride, padding, dilation)


@torch.library.register_fake("yolact::deform_columns")
def _(
    input: Tensor,
    offsets: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    return input.new_empty((*mask.shape, input.shape[3])).flatten(3)


@torch.library.register_fake("yolact::deform_columns_backward")
def _(gradient: Tensor, input: Tensor, offsets: Tensor, mask: Tensor, *options: int) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (input, offsets, mask))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kernel_size, ctx.stride, ctx.padding, ctx.dilation = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.yolact.deform_columns_backward(
        gradient, *ctx.saved_tensors, ctx.kernel_size, ctx.stride, ctx.padding, ctx.dilation
    )
    return *gradients, None, None, None, None


torch.library.register_autograd("yolact::deform_columns", _backward, setup_context=_remember)
