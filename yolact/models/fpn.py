"""Feature pyramid: C3–C5 to P3–P7 (YOLACT, section 5)."""

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """1×1 laterals, bilinear top-down additions, 3×3 output convs, and two stride-2 convs for P6 and P7.

    Args:
        in_channels: channels of C3, C4 and C5.
        channels: of each of P3–P7.
        relu: whether P3–P5 have a ReLU.
        p6_from_c5: whether P6 is made from C5 instead of P5.
    """

    def __init__(self, in_channels: list[int], channels: int, relu: bool, p6_from_c5: bool):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.p6 = nn.Conv2d(in_channels[-1] if p6_from_c5 else channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.activation = nn.ReLU() if relu else nn.Identity()
        self.p6_from_c5 = p6_from_c5

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to P3, P4, P5, P6, P7."""
        merged: list[Tensor] = []
        for level, lateral in enumerate(self.laterals):
            merged.append(lateral(features[level]))
        for level in range(len(merged) - 2, -1, -1):
            size = features[level].shape[-2:]  # not that of `merged`: to be fused, its addition must be its only use
            merged[level] = merged[level] + F.interpolate(
                merged[level + 1], size=size, mode="bilinear", align_corners=False
            )
        pyramid: list[Tensor] = []
        for level, conv in enumerate(self.outputs):
            pyramid.append(self.activation(conv(merged[level])))
        pyramid.append(self.p6(features[-1] if self.p6_from_c5 else pyramid[-1]))
        pyramid.append(self.p7(pyramid[-1]))
        return pyramid
