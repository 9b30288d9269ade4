"""Which image each process learns from at each iteration: a function of the seed and the iteration alone."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class ShareSampler(Sampler[list[tuple[int, int]]]):
    """The shares of one process, as lists of (index, seed of the augmentation).

    Epoch after epoch of permuted indices makes one endless row, of which each iteration takes the next
    `batch_size`; so no batch is short, and a run goes on anywhere with what an unbroken one would have taken.

    Args:
        images: in the data set.
        batch_size: images of an iteration, over all processes and shares.
        first, last: iterations, the last excluded.
        seed: of the permutations and the augmentation.
        processes, rank: how many there are, and which is this one.
        accumulation: shares of an iteration in each process.

    Raises:
        ValueError: if the batch cannot be divided into equal shares.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        first: int,
        last: int,
        seed: int = 0,
        processes: int = 1,
        rank: int = 0,
        accumulation: int = 1,
    ):
        if images < 1:
            raise ValueError("the training set holds no image")
        if batch_size % (processes * accumulation):
            raise ValueError(
                f"a batch of {batch_size} images cannot be divided evenly over {processes} processes with "
                f"{accumulation} accumulated shares each"
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.first, self.last = first, last
        self.share_size = batch_size // (processes * accumulation)
        self.shares = range(rank * accumulation, (rank + 1) * accumulation)
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return (self.last - self.first) * len(self.shares)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.first, self.last):
            for share in self.shares:
                start = iteration * self.batch_size + share * self.share_size
                yield [self._at(position) for position in range(start, start + self.share_size)]

    def _at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.images)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(hash((self.seed, epoch)))
            self._epoch, self._order = epoch, torch.randperm(self.images, generator=generator)
        return int(self._order[place]), hash((self.seed, position)) % 2**63
