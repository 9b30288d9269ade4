"""Prediction head, shared by all pyramid levels (YOLACT, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """One 3×3 conv, then three parallel ones for boxes, classes and mask coefficients.

    Args:
        channels: of the feature pyramid.
        anchors: number of anchors at each location.
        num_classes: without the background.
        num_prototypes: number of coefficients of each anchor.
    """

    def __init__(self, channels: int, anchors: int, num_classes: int, num_prototypes: int):
        super().__init__()
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)
        self.boxes = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        self.logits = nn.Conv2d(channels, anchors * (1 + num_classes), 3, padding=1)
        self.coefficients = nn.Conv2d(channels, anchors * num_prototypes, 3, padding=1)
        self.widths = (4, 1 + num_classes, num_prototypes)

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Box deltas [B, A, 4], logits [B, A, 1 + classes] and coefficients [B, A, K] after tanh, of all levels.

        Anchors are sorted by level, row and column, and those of one location in the order of the preset.
        """
        deltas: list[Tensor] = []
        logits: list[Tensor] = []
        coefficients: list[Tensor] = []
        for level in pyramid:
            x = F.relu(self.shared(level))
            deltas.append(_by_anchor(self.boxes(x), self.widths[0]))
            logits.append(_by_anchor(self.logits(x), self.widths[1]))
            coefficients.append(_by_anchor(self.coefficients(x), self.widths[2]))
        return torch.cat(deltas, 1), torch.cat(logits, 1), torch.cat(coefficients, 1).tanh()


def _by_anchor(maps: Tensor, width: int) -> Tensor:
    """[B, anchors·width, h, w] to [B, h·w·anchors, width]."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width)
