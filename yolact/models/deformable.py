"""Modulated deformable convolution (DCNv2, Zhu et al., arXiv:1811.11168), as YOLACT++ has it in its backbone."""

import torch
from torch import Tensor, nn

from yolact.ops import deform_columns


class DeformConv2d(nn.Module):
    """A convolution whose taps are moved and weighted, as another convolution of the same input predicts.

    Args:
        in_channels, out_channels: as in `nn.Conv2d`.
        kernel_size: K, of both sides.
        stride, padding, dilation: as in `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
    ):
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        # Channels are innermost, as they are in the columns, so that no call has to copy the weight.
        weight = torch.empty(out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        # The offsets (y, x) of all taps, then the logits of their factors. At first every tap lies on the grid and
        # has the factor ½.
        self.conv_offset_mask = nn.Conv2d(
            in_channels, 3 * kernel_size**2, kernel_size, stride=stride, padding=padding, dilation=dilation
        )
        nn.init.zeros_(self.conv_offset_mask.weight)
        if self.conv_offset_mask.bias is not None:
            nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, out_channels, h, w], in the memory format of `x`."""
        taps = self.kernel_size * self.kernel_size
        predicted = self.conv_offset_mask(x).permute(0, 2, 3, 1)
        if x.dtype != torch.float64:
            predicted = predicted.float()  # half precision is too coarse for positions
        return deform_conv2d(
            x,
            predicted[..., : 2 * taps],
            predicted[..., 2 * taps :].sigmoid(),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
        )


def deform_conv2d(
    x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    """A deformable convolution.

    Args:
        x: [B, C, H, W].
        offsets: [B, h, w, 2·K²] as `yolact.ops.deform_columns` takes them.
        mask: [B, h, w, K²], as `yolact.ops.deform_columns` takes it.
        weight: [O, C, K, K].
        bias: [O].
        stride, padding, dilation: as in `nn.Conv2d`.

    Returns:
        [B, O, h, w] in the dtype and memory format of `x`.
    """
    kernel_size = weight.shape[2]
    columns = deform_columns(x.permute(0, 2, 3, 1), offsets, mask, kernel_size, stride, padding, dilation)
    factors = weight.permute(0, 2, 3, 1).flatten(1)  # [O, K²·C]
    if x.is_contiguous():
        product = torch.matmul(factors, columns.flatten(1, 2).transpose(1, 2)) + bias[:, None]
        return product.unflatten(2, columns.shape[1:3])
    return torch.matmul(columns, factors.t()).add(bias).permute(0, 3, 1, 2)
