"""Masks of eight pixels a byte, in which they go from the loader to the losses.

A thousand masks of 550 × 550 pixels take 38 MB instead of 303.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class PackedMasks(tv_tensors.TVTensor):
    """The N masks of a square sample, [N, S, ⌈S/8⌉] uint8, see `pack`.

    Of torchvision.transforms.v2 only mirroring and quarter turns know them. The others leave them as they are.
    """

    def __new__(cls, data: Tensor) -> "PackedMasks":
        return data.as_subclass(cls)


def packed_size(size: int) -> tuple[int, int]:
    """The shape of one packed mask of S × S pixels."""
    return size, (size + 7) // 8


def pack(masks: Tensor) -> Tensor:
    """Packs masks [N, S, S] on the CPU, where 0 is outside, into [N, S, ⌈S/8⌉] uint8. A row begins with a high bit."""
    packed = torch.empty(len(masks), *packed_size(masks.shape[2]), dtype=torch.uint8)
    for mask, target in zip(masks.numpy(), packed.numpy(), strict=True):
        target[:] = np.packbits(mask != 0, axis=1)
    return packed


def unpack(packed: Tensor) -> Tensor:
    """Unpacks [N, S, ⌈S/8⌉] uint8 on any device into masks [N, S, S] bool."""
    bits = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    pixels = (packed.as_subclass(Tensor)[..., None] >> bits & 1).flatten(2)
    return pixels[..., : packed.shape[1]].bool()


def _changed(masks: PackedMasks, change: Callable[[np.ndarray], np.ndarray]) -> PackedMasks:
    result = torch.empty_like(masks.as_subclass(Tensor))
    # One at a time: a thousand masks are large.
    for mask, target in zip(masks.as_subclass(Tensor).numpy(), result.numpy(), strict=True):
        target[:] = np.packbits(change(np.unpackbits(mask, axis=1, count=mask.shape[0])), axis=1)
    return PackedMasks(result)


@v2.functional.register_kernel(v2.functional.horizontal_flip, PackedMasks)
def _horizontal_flip(masks: PackedMasks) -> PackedMasks:
    return _changed(masks, np.fliplr)


@v2.functional.register_kernel(v2.functional.vertical_flip, PackedMasks)
def _vertical_flip(masks: PackedMasks) -> PackedMasks:
    return PackedMasks(masks.as_subclass(Tensor).flip(1))


@v2.functional.register_kernel(v2.functional.rotate, PackedMasks)
def _rotate(masks: PackedMasks, angle: float, **_: Any) -> PackedMasks:
    turns, rest = divmod(angle, 90)
    if rest:
        raise ValueError(f"packed masks can be turned by multiples of 90 degrees only, got {angle}")
    return _changed(masks, lambda mask: np.rot90(mask, int(turns)))
