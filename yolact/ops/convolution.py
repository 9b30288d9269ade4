"""A convolution together with the steps that follow it in a trained network: bias, residual and activation."""

import torch
from torch import Tensor


def pack_convolution(weight: Tensor, stride: int = 1) -> Tensor:
    """The weights in the layout that `convolution` needs on this machine's CPU. Do not store them in files.

    The weights of a 3×3 convolution of stride 1 are transformed for Winograd's F(4×4, 3×3), so there are four times
    as many values.

    Args:
        weight: [O, C, K, K] float32 or bfloat16, on the CPU.
        stride: of the convolution.

    Returns:
        [panels, taps, length, lanes] float32, bfloat16 or int16. Sizes and dtype depend on the CPU. The tensor is
        empty on processors without AVX2, where torch's own convolution is faster.

    Raises:
        RuntimeError: if the weight is not as above.
    """
    return torch.ops.yolact.pack_convolution(weight, stride)


def convolution(
    input: Tensor,
    weight: Tensor,
    packed: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    negative_slope: float = 1.0,
) -> Tensor:
    """The leaky ReLU of a convolution plus a bias plus a residual. It has no gradient.

    Args:
        input: [B, C, H, W] float32, float16 or bfloat16.
        weight: [O, C, K, K], dtype of `input`.
        packed: `pack_convolution(weight, stride)`, or an empty tensor. On a CPU, packed weights are much faster
            (float32 and bfloat16); of `weight` only the shape is used then.
        bias: [O] float32.
        residual: [B, O, h, w], dtype of `input`; added before the activation.
        stride, padding: the same for height and width.
        negative_slope: factor of values below 0; 1 means no activation, 0 a ReLU.

    Returns:
        [B, O, h, w], dtype of `input`, channels-last in memory.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.convolution(input, weight, packed, bias, residual, stride, padding, negative_slope)


@torch.library.register_fake("yolact::convolution")
def _(
    input: Tensor,
    weight: Tensor,
    packed: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    negative_slope: float = 1.0,
) -> Tensor:
    height, width = ((size + 2 * padding - weight.shape[2]) // stride + 1 for size in input.shape[2:])
    shape = (input.shape[0], weight.shape[0], height, width)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)
