"""Protonet: makes the prototypes of an image from P3 (YOLACT, section 3.1)."""

import torch.nn.functional as F
from torch import Tensor, nn


class Protonet(nn.Module):
    """Three 3×3 convs, ×2 bilinear upsampling, a 3×3 and a 1×1 conv, each with ReLU."""

    def __init__(self, channels: int, num_prototypes: int):
        super().__init__()
        self.before = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.after = nn.Conv2d(channels, channels, 3, padding=1)
        self.prototypes = nn.Conv2d(channels, num_prototypes, 1)

    def forward(self, p3: Tensor) -> Tensor:
        """[B, channels, h, w] to prototypes [B, 2h, 2w, num_prototypes], not negative."""
        x = p3
        for conv in self.before:
            x = F.relu(conv(x))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = F.relu(self.after(x))
        return F.relu(self.prototypes(x)).permute(0, 2, 3, 1).contiguous()
