"""From a share of a batch to its losses, as one module that accelerate can distribute."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from yolact.data.packed import packed_size
from yolact.data.targets import Targets
from yolact.models.yolact import Yolact
from yolact.training.losses import Counts, Losses, count, loss_sums
from yolact.training.matching import Matches, match

if TYPE_CHECKING:
    from yolact.data.batch import Batch  # which needs pycocotools


@dataclass(frozen=True)
class Share:
    """What one forward pass learns from, on the device of the network.

    images: [B, 3, S, S] uint8 RGB.
    targets: of these.
    matches: of `targets` with the anchors.
    counts: what the share adds to the counts of the batch.
    paths: of the B images. A share without readable images has none, but one black image without objects, so that its
        process computes as many passes as the others; it counts for nothing.
    """

    images: Tensor
    targets: Targets
    matches: Matches
    counts: Counts
    paths: list[str]

    @property
    def weight(self) -> float:
        """What its losses are multiplied by."""
        return 1.0 if self.paths else 0.0


class TrainingStep(nn.Module):
    """A network with its losses.

    Args:
        network: trained in place.
        freeze_batch_norm: keep the statistics and the weights of the backbone's batch norms as they are.
        channels_last: compute with the channels innermost, which is faster on most devices.
        compiled: compile the network.
    """

    anchors: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, network: Yolact, freeze_batch_norm: bool = False, channels_last: bool = True, compiled: bool = False
    ):
        super().__init__()
        self.network = network
        preset = network.preset
        self.freeze_batch_norm = freeze_batch_norm
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network.to(memory_format=self.memory_format)
        if freeze_batch_norm:
            for norm in self.batch_norms():
                norm.requires_grad_(False)
        # Compiling the module instead of the method would rename its parameters.
        self._predict = torch.compile(network.forward_training) if compiled else network.forward_training
        self.register_buffer("anchors", network.anchors(preset.image_size, preset.image_size), persistent=False)
        for name, values in (("pixel_mean", preset.pixel_mean), ("pixel_std", preset.pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.train()

    def batch_norms(self) -> list[nn.Module]:
        """The batch norms of the network."""
        return [module for module in self.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> "TrainingStep":
        super().train(mode)
        if self.freeze_batch_norm:
            for norm in self.batch_norms():
                norm.eval()
        return self

    def statistics(self) -> list[Tensor]:
        """The buffers of the batch norms that a forward pass changes; none where they are frozen."""
        return [] if self.freeze_batch_norm else [buffer for norm in self.batch_norms() for buffer in norm.buffers()]

    def match(self, targets: Targets) -> Matches:
        """The matches of `targets`, on the device of this module."""
        return match(targets.boxes, targets.labels, self.anchors, self.network.preset.loss)

    def share(self, batch: "Batch") -> Share:
        """`batch`, whose images have the preset's size, on the device of this module and with its matches."""
        device, size = self.anchors.device, self.network.preset.image_size
        if not batch.paths:
            nothing = torch.tensor(0, device=device)
            targets = Targets(
                torch.zeros(1, 0, 4, device=device),
                torch.zeros(1, 0, dtype=torch.long, device=device),
                torch.zeros(0, *packed_size(size), dtype=torch.uint8, device=device),
            )
            images = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
            return Share(images, targets, self.match(targets), Counts(nothing, nothing, nothing), [])
        images = batch.images.to(device, non_blocking=True)
        targets = Targets(*(column.to(device, non_blocking=True) for column in batch.targets))
        matches = self.match(targets)
        return Share(images, targets, matches, count(matches), batch.paths)

    def forward(self, images: Tensor, targets: Targets, matches: Matches) -> Tensor:
        """The weighted loss sums [5] float32, in the order of `Losses`.

        Args:
            images: [B, 3, S, S] uint8 RGB.
            targets: of these.
            matches: what `match` gave for `targets`.
        """
        inputs = ((images - self.pixel_mean) / self.pixel_std).contiguous(memory_format=self.memory_format)
        predictions, semantic = self._predict(inputs)
        preset = self.network.preset
        sums: Losses = loss_sums(
            predictions,
            semantic,
            targets,
            matches,
            self.anchors,
            preset.loss,
            preset.variances,
            self.network.rescoring,
        )
        return torch.stack(sums)
