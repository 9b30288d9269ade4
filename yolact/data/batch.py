"""Makes batches of samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from yolact.data.coco import CocoDataset, EncodedSample, Sample
from yolact.data.images import ImageError
from yolact.data.packed import PackedMasks, pack, packed_size
from yolact.data.problems import DataError
from yolact.data.targets import CROWD, PADDING, Targets


class Batch(NamedTuple):
    """What a data loader yields.

    images: [B, 3, S, S] uint8 RGB, not normalised; [0, 3, 0, 0] if every sample was broken.
    targets: ground truth of the B images.
    image_ids: the B images' ids in the data set (`ImageEntry.id`).
    paths: the B images' files.
    broken: one message for each sample that is left out because it cannot be read. It names the file.
    """

    images: Tensor
    targets: Targets
    image_ids: list[int]
    paths: list[str]
    broken: list[str]


@dataclass(frozen=True)
class BrokenSample:
    """Stands for a sample that cannot be read; `reason` names its file."""

    reason: str


class Tolerant(Dataset[Sample | BrokenSample]):
    """A data set in which a sample that cannot be read becomes a `BrokenSample`.

    The index is an integer or a pair (index, seed). With a pair, the sample's augmentation is drawn from the seed. It
    is then the same in every worker, and the random state of the process does not change.

    Args:
        dataset: gives the samples. It may have a transform of its own.
        transform: applied to each sample after the data set's own transform, for example `training_transform`. If the
            data set is a `CocoDataset` without a transform, it gets an `EncodedSample`, which takes little memory.
    """

    def __init__(self, dataset: Dataset[Sample], transform: Callable[[Sample | EncodedSample], Sample] | None = None):
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int | tuple[int, int]) -> Sample | BrokenSample:
        try:
            if not isinstance(index, tuple):
                return self._sample(index)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(index[1])
                return self._sample(index[0])
        except (ImageError, DataError) as error:
            return BrokenSample(str(error))

    def _sample(self, index: int) -> Sample:
        if self.transform is None:
            return self.dataset[index]
        # A class derived from it may have samples of its own.
        if type(self.dataset) is CocoDataset and self.dataset.transform is None:
            return self.transform(self.dataset.encoded(index))
        return self.transform(self.dataset[index])


def collate(samples: Sequence[Sample | BrokenSample]) -> Batch:
    """Makes a batch of samples whose images are squares of one size. Broken samples are left out and named.

    Raises:
        ValueError: if the sizes differ.
    """
    broken = [sample.reason for sample in samples if isinstance(sample, BrokenSample)]
    good = [sample for sample in samples if not isinstance(sample, BrokenSample)]
    shapes = {tuple(sample["image"].shape) for sample in good}
    if len(shapes) > 1 or any(height != width for _, height, width in shapes):
        raise ValueError(
            f"the images of a batch must be squares of one size, got {sorted(shapes)}: "
            "does the data set have a transform that resizes to the network's size?"
        )
    side = shapes.pop()[1] if shapes else 0
    most = max((len(sample["labels"]) for sample in good), default=0)
    boxes = torch.zeros(len(good), most, 4)
    labels = torch.full((len(good), most), PADDING)
    for row, sample in enumerate(good):
        count = len(sample["labels"])
        boxes[row, :count] = sample["boxes"].as_subclass(Tensor) / side
        labels[row, :count] = sample["labels"]
    masks = torch.empty(int((labels >= 0).sum()), *packed_size(side), dtype=torch.uint8)
    for sample, target in zip(good, masks.split((labels >= 0).sum(dim=1).tolist()), strict=True):
        torch.index_select(_packed(sample["masks"]), 0, (sample["labels"] != CROWD).nonzero()[:, 0], out=target)
    images = [sample["image"].as_subclass(Tensor) for sample in good]
    return Batch(
        images=torch.stack(images) if images else torch.zeros(0, 3, 0, 0, dtype=torch.uint8),
        targets=Targets(boxes, labels, masks),
        image_ids=[sample["image_id"] for sample in good],
        paths=[sample["path"] for sample in good],
        broken=broken,
    )


def _packed(masks: tv_tensors.Mask | PackedMasks) -> Tensor:
    return masks.as_subclass(Tensor) if isinstance(masks, PackedMasks) else pack(masks.as_subclass(Tensor))
