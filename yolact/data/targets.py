"""Ground truth as the losses take it."""

from typing import NamedTuple

from torch import Tensor

CROWD = -1  # label of a region that holds many objects: neither a target nor background
PADDING = -2  # label of a row that is no object


class Targets(NamedTuple):
    """Ground truth of B images of S × S pixels, padded to M objects each, the largest count, at times 0.

    boxes: [B, M, 4] float32 xyxy relative to the image, 0–1.
    labels: [B, M] int64: class from 0, -1 = crowd, -2 = padding; objects first, then crowds, then padding.
    masks: [T, S, S] bool, of the T objects of the batch that are no crowds, image after image, in that order.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
