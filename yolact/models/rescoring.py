"""Mask re-scoring: predicts from a mask alone how well it fits (YOLACT++, section 4; arXiv:1912.06218)."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_SIDE = 63  # of a mask: a smaller one has no pixel left after the convs


class MaskRescoring(nn.Module):
    """Five unpadded 3×3 convs of stride 2, a 1×1 conv, each with ReLU, and a global maximum."""

    def __init__(self, num_classes: int):
        super().__init__()
        widths = (1, 8, 16, 32, 64, 128)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2) for a, b in pairwise(widths))
        self.classes = nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, masks: Tensor, labels: Tensor) -> Tensor:
        """The predicted IoU [N] of each mask with its object, not negative.

        Args:
            masks: [N, h, w] soft masks, 0–1, zero outside their boxes; sides of at least `SMALLEST_SIDE`.
            labels: [N] int64, classes from 0.
        """
        x = masks[:, None].to(self.classes.weight.dtype)
        for conv in self.convs:
            x = F.relu(conv(x))
        of_classes = F.relu(self.classes(x)).amax(dim=(2, 3))
        return of_classes.gather(1, labels[:, None])[:, 0]
