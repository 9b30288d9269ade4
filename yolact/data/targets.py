"""Ground truth in the form that the losses take."""

from typing import NamedTuple

from torch import Tensor

CROWD = -1  # label of a region that holds many objects; it is neither a target nor background
PADDING = -2  # label of a row that is not an object


class Targets(NamedTuple):
    """Ground truth of B images of S × S pixels. Each is padded to M objects, the largest count, which may be 0.

    boxes: [B, M, 4] float32 xyxy relative to the image, 0–1.
    labels: [B, M] int64: class from 0, -1 = crowd, -2 = padding. Objects come first, then crowds, then padding.
    masks: [T, S, ⌈S/8⌉] uint8, of the T objects of the batch that are not crowds, image after image in the same order;
        `yolact.data.packed.unpack` makes bool masks of them.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
