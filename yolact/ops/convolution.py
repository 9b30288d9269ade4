"""A convolution with all that follows it in a trained network: bias, residual connection and activation."""

import torch
from torch import Tensor


def pack_convolution(weight: Tensor, stride: int = 1) -> Tensor:
    """The weights as `convolution` wants them on this very machine's CPU; not to be stored.

    Weights of a 3×3 convolution of stride 1 are transformed for Winograd's F(4×4, 3×3), which makes them four times
    as many.

    Args:
        weight: [O, C, K, K] float32 or bfloat16, on the CPU.
        stride: as of the convolution.

    Returns:
        [panels, taps, length, lanes] float32, bfloat16 or int16; what they are, the CPU decides. Empty where torch's
        own convolution is the faster one: on processors without AVX2.

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
    """Leaky ReLU of a convolution, plus bias, plus a residual; without gradient.

    Args:
        input: [B, C, H, W] float32, float16 or bfloat16.
        weight: [O, C, K, K], dtype of `input`.
        packed: `pack_convolution` of it, which is much faster on a CPU (float32 and bfloat16), where the weight's
            shape alone is looked at then; or empty.
        bias: [O] float32.
        residual: [B, O, h, w], dtype of `input`; added before the activation.
        stride, padding: of both sides.
        negative_slope: factor of values below 0: 1 for no activation, 0 for a ReLU.

    Returns:
        [B, O, h, w], dtype of `input`, channels-last in memory.

    Raises:
        RuntimeError: if a shape, dtype or argument is not as above.
    """
    return torch.ops.yolact.convolution(input, weight, packed, bias, residual, stride, padding, negative_slope)


@torch.library.register_fake("yolact::convolution")
def _(input, weight, packed, bias, residual=None, stride=1, padding=0, negative_slope=1.0):
    height, width = ((size + 2 * padding - weight.shape[2]) // stride + 1 for size in input.shape[2:])
    shape = (input.shape[0], weight.shape[0], height, width)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)
