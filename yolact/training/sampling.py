"""Which images each process learns from at each iteration. The seed and the iteration alone decide it."""

import hashlib
from collections.abc import Generator, Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from yolact.config import Preset
from yolact.data.batch import Batch, Tolerant, collate
from yolact.data.coco import Sample
from yolact.data.transforms import training_transform
from yolact.training.processes import ignore_stop_signals
from yolact.training.settings import TrainingSettings


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers, 0 … 2⁶³ − 1. It is the same on every machine and with every version of Python.

    Args:
        numbers: each 0 … 2⁶⁴ − 1.
    """
    content = b"".join(number.to_bytes(8, "little") for number in numbers)
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 1


class ShareSampler(Sampler[list[tuple[int, int]]]):
    """The shares of one process, as lists of (index, seed of the augmentation).

    Permutations of the indices, one an epoch, make one endless row. Each iteration takes the next `batch_size` of it,
    so no batch is short, and a resumed run takes the same images as an unbroken one.

    Attributes:
        first: the iteration to begin with; may be set before the first share is drawn.
        share_size: images of a share.

    Args:
        images: in the data set.
        batch_size: images of an iteration, over all processes and shares.
        first, last: iterations, the last excluded.
        seed: of the permutations and the augmentation.
        processes, rank: how many processes there are, and the number of this one.
        accumulation: shares of an iteration in each process.

    Raises:
        ValueError: if the batch cannot be divided into equal shares, or there is no image.
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
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.images, generator=generator)
        return int(self._order[place]), mixed_seed(self.seed, position)


def load_batches(
    train_data: Dataset[Sample], preset: Preset, settings: TrainingSettings, sampler: ShareSampler, device: torch.device
) -> Generator[Batch, None, None]:
    """The shares that `sampler` names, in its order.

    Args:
        train_data: the augmentation follows its transform, if it has one.
        preset: with the images' size.
        settings: with the augmentation and the number of loader processes.
        sampler: with the iteration to begin with.
        device: where the batches go.
    """
    transform = training_transform(preset.image_size, preset.pixel_mean, settings.augmentation)
    yield from DataLoader(
        Tolerant(train_data, transform),
        batch_sampler=sampler,
        num_workers=settings.workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_stop_signals,
        # Without a generator of its own the loader would draw from that of the steps, and change what they draw.
        generator=torch.Generator().manual_seed(settings.seed),
    )
