"""The losses (YOLACT, section 3): sums of a batch, so that whoever holds all of its shares can divide them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from yolact.config import LossConfig
from yolact.data.targets import Targets
from yolact.models.anchors import encode
from yolact.models.yolact import Predictions
from yolact.ops import crop
from yolact.training.matching import BACKGROUND, Matches


class Losses(NamedTuple):
    """The parts of the loss, each a float32 scalar: weighted sums of a batch, or what `normalised` made of them."""

    boxes: Tensor
    classes: Tensor
    masks: Tensor
    semantic: Tensor

    def total(self) -> Tensor:
        return torch.stack(self).sum()


class Counts(NamedTuple):
    """What the sums are divided by, of one share or of a whole batch; scalars.

    positives: anchors.
    empty_images: images without a positive anchor.
    images: all of them.
    """

    positives: Tensor
    empty_images: Tensor
    images: Tensor


def count(matches: Matches) -> Counts:
    """The counts of a share of a batch."""
    positives = matches.positive.sum(dim=1)
    return Counts(positives.sum(), (positives == 0).sum(), positives.new_tensor(len(positives)))


def normalised(sums: Losses, counts: Counts, config: LossConfig) -> Losses:
    """Boxes, classes and masks by positive anchor, semantic by image.

    Where no image has an object, the hard negatives stand for the positives they would belong to.

    Args:
        sums: of a share of a batch.
        counts: of the whole batch.
        config: that of `sums`.
    """
    stand_in = counts.empty_images * (config.empty_image_negatives / config.negative_ratio)
    positives = torch.where(counts.positives > 0, counts.positives.float(), stand_in.float()).clamp(min=1)
    images = counts.images.clamp(min=1)
    return Losses(sums.boxes / positives, sums.classes / positives, sums.masks / positives, sums.semantic / images)


def loss_sums(
    predictions: Predictions,
    semantic_logits: Tensor,
    targets: Targets,
    matches: Matches,
    anchors: Tensor,
    config: LossConfig,
    variances: tuple[float, float],
) -> Losses:
    """The weighted sums of each part of the loss, in float32 whatever the precision of the network.

    Every output has a gradient, zero where nothing was to be learnt, so that processes with unequal shares of
    the objects stay in step.

    Args:
        predictions: of B images, A anchors each.
        semantic_logits: [B, classes, h, w].
        targets: of the same images.
        matches: of `targets` with `anchors`.
        anchors: [A, 4] xyxy relative.
        config: weights and limits.
        variances: of the encoding of boxes.
    """
    image, anchor = matches.positive.nonzero(as_tuple=True)
    matched = matches.objects[image, anchor]
    boxes = targets.boxes[image, matched]
    with torch.autocast(boxes.device.type, enabled=False):
        deltas = predictions.box_deltas[image, anchor].float()
        encoded = encode(boxes, anchors[anchor], variances)
        return Losses(
            config.box_weight * F.smooth_l1_loss(deltas, encoded, reduction="sum"),
            config.class_weight * class_loss(predictions.logits.float(), matches.labels, config),
            config.mask_weight * _mask_loss(predictions, targets, image, anchor, matched, config.max_masks),
            config.semantic_weight * _semantic_loss(semantic_logits.float(), targets),
        )


def class_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Cross-entropy summed over the positives and the hardest negatives of each image.

    Args:
        logits: [B, A, 1 + classes] float32.
        labels: [B, A] int64 as in `Matches`.
        config: how many negatives.
    """
    with torch.no_grad():
        hardness = logits.logsumexp(dim=2) - logits[:, :, BACKGROUND]
        hardness = torch.where(labels == BACKGROUND, hardness, -1.0)  # a negative's is never below 0
        positives = (labels > BACKGROUND).sum(dim=1)
        wanted = torch.where(positives > 0, config.negative_ratio * positives, config.empty_image_negatives)
        most = min(int(wanted.max()), labels.shape[1])
        hardest, anchors = hardness.topk(most, dim=1)
        chosen = (torch.arange(most, device=labels.device) < wanted[:, None]) & (hardest >= 0)
        used = (labels > BACKGROUND).scatter(1, anchors, chosen | (labels.gather(1, anchors) > BACKGROUND))
    return F.cross_entropy(logits[used], labels[used], reduction="sum")


def _mask_loss(
    predictions: Predictions, targets: Targets, image: Tensor, anchor: Tensor, matched: Tensor, max_masks: int
) -> Tensor:
    """BCE of the masks of the positives within their objects' boxes, by pixel of the box, summed.

    Args:
        predictions: of B images.
        targets: of the same images.
        image, anchor, matched: [P] int64 of each positive, by image; `matched` is its object.
        max_masks: positives drawn of an image that has more, which then stand for all of them.
    """
    height, width = predictions.prototypes.shape[1:3]
    objects_of = (targets.labels >= 0).sum(dim=1).tolist()
    positives_of = image.bincount(minlength=len(objects_of)).tolist()
    total = predictions.prototypes.new_zeros((), dtype=torch.float32)
    first_object = first = 0
    # One image at a time: all of a batch's masks at once are the largest tensor of the whole step.
    for i, (objects, positives) in enumerate(zip(objects_of, positives_of, strict=True)):
        masks = _resized(targets.masks[first_object : first_object + objects], height, width)
        chosen = slice(first, first + positives)
        scale = 1.0
        if positives > max_masks:
            chosen = first + torch.randperm(positives)[:max_masks].to(image.device)
            scale = positives / max_masks
        boxes = targets.boxes[i, matched[chosen]]
        coefficients = predictions.coefficients[i, anchor[chosen]].float()
        logits = (coefficients @ predictions.prototypes[i].float().flatten(0, 1).T).unflatten(1, (height, width))
        losses = F.binary_cross_entropy_with_logits(logits, masks[matched[chosen]], reduction="none")
        pixels = (boxes[:, 2] - boxes[:, 0]) * width * (boxes[:, 3] - boxes[:, 1]) * height
        total = total + scale * (crop(losses, boxes).sum(dim=(1, 2)) / pixels).sum()
        first_object += objects
        first += positives
    return total


def _semantic_loss(logits: Tensor, targets: Targets) -> Tensor:
    """BCE of `logits` [B, classes, h, w] with the union of each class's masks, summed over classes, by pixel."""
    batch, classes, height, width = logits.shape
    is_object = targets.labels >= 0
    images = torch.arange(batch, device=logits.device)[:, None].expand_as(targets.labels)
    planes = (images * classes + targets.labels)[is_object]
    unions = logits.new_zeros((batch * classes, height, width))
    first = 0
    for objects in is_object.sum(dim=1).tolist():
        chosen = slice(first, first + objects)
        unions.index_add_(0, planes[chosen], _resized(targets.masks[chosen], height, width))
        first += objects
    unions = unions.clamp_(max=1).view_as(logits)
    return F.binary_cross_entropy_with_logits(logits, unions, reduction="sum") / (height * width)


def _resized(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks [n, S, S] bool at another size, as float32 0 or 1."""
    if len(masks) == 0:
        return masks.new_zeros((0, height, width), dtype=torch.float32)
    small = F.interpolate(masks[:, None].float(), size=(height, width), mode="bilinear", align_corners=False)
    return (small[:, 0] > 0.5).float()
