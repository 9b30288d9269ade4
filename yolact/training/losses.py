"""The losses (YOLACT, section 3). They are sums over a share, which are divided by the counts of the whole batch."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from yolact.config import LossConfig
from yolact.data.packed import unpack
from yolact.data.targets import Targets
from yolact.models.anchors import encode
from yolact.models.rescoring import MaskRescoring
from yolact.models.yolact import Predictions
from yolact.ops import crop
from yolact.training.matching import BACKGROUND, Matches

_RESIZED_AT_ONCE = 64  # masks


class Losses(NamedTuple):
    """The parts of the loss, each a float32 scalar: the weighted sums of a share, or these divided by `normalised`."""

    boxes: Tensor
    classes: Tensor
    masks: Tensor
    semantic: Tensor
    mask_iou: Tensor  # of the re-scoring network; 0 where there is none

    def total(self) -> Tensor:
        """The sum of the parts."""
        return torch.stack(self).sum()


class Counts(NamedTuple):
    """What the sums are divided by, for a share or a whole batch; int64 scalars.

    positives: positive anchors.
    empty_images: images without a positive anchor.
    images: all images.
    """

    positives: Tensor
    empty_images: Tensor
    images: Tensor


def count(matches: Matches) -> Counts:
    """The counts of a share of a batch."""
    positives = matches.positive.sum(dim=1)
    return Counts(positives.sum(), (positives == 0).sum(), positives.new_tensor(len(positives)))


def normalised(sums: Losses, counts: Counts, config: LossConfig) -> Losses:
    """The semantic sum divided by the number of images, every other sum by the number of positive anchors.

    If no image has an object, the sums are divided by the number of positives that the hard negatives stand for.

    Args:
        sums: of a share of the batch.
        counts: of the whole batch.
        config: the one that `sums` were computed with.
    """
    stand_in = counts.empty_images * (config.empty_image_negatives / config.negative_ratio)
    positives = torch.where(counts.positives > 0, counts.positives.float(), stand_in.float()).clamp(min=1)
    images = counts.images.clamp(min=1)
    by_anchor = Losses(*(part / positives for part in sums))
    return by_anchor._replace(semantic=sums.semantic / images)


def loss_sums(
    predictions: Predictions,
    semantic_logits: Tensor,
    targets: Targets,
    matches: Matches,
    anchors: Tensor,
    config: LossConfig,
    variances: tuple[float, float],
    rescoring: MaskRescoring | None = None,
) -> Losses:
    """The weighted sums of each part of the loss, in float32 for every precision of the network.

    Every output has a gradient, which is zero where there is nothing to learn. So processes without objects take part
    in the exchange of gradients.

    Args:
        predictions: of B images, A anchors each.
        semantic_logits: [B, classes, h, w].
        targets: of the same images.
        matches: of `targets` with `anchors`.
        anchors: [A, 4] xyxy relative.
        config: weights and limits.
        variances: of the encoding of boxes.
        rescoring: the part of the network that scores masks, if it has one.
    """
    image, anchor = matches.positive.nonzero(as_tuple=True)
    matched = matches.objects[image, anchor]
    boxes = targets.boxes[image, matched]
    with torch.autocast(boxes.device.type, enabled=False):
        deltas = predictions.box_deltas[image, anchor].float()
        encoded = encode(boxes, anchors[anchor], variances)
        masks, mask_iou = _mask_losses(predictions, targets, image, anchor, matched, config, rescoring)
        return Losses(
            config.box_weight * F.smooth_l1_loss(deltas, encoded, reduction="sum"),
            config.class_weight * class_loss(predictions.logits.float(), matches.labels, config),
            config.mask_weight * masks,
            config.semantic_weight * _semantic_loss(semantic_logits.float(), targets),
            config.mask_iou_weight * mask_iou,
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
        hardness = torch.where(labels == BACKGROUND, hardness, -1.0)  # that of a negative is never below 0
        positives = (labels > BACKGROUND).sum(dim=1)
        wanted = torch.where(positives > 0, config.negative_ratio * positives, config.empty_image_negatives)
        most = min(int(wanted.max()), labels.shape[1])
        hardest, anchors = hardness.topk(most, dim=1)
        chosen = (torch.arange(most, device=labels.device) < wanted[:, None]) & (hardest >= 0)
        used = (labels > BACKGROUND).scatter(1, anchors, chosen | (labels.gather(1, anchors) > BACKGROUND))
    return F.cross_entropy(logits[used], labels[used], reduction="sum")


def _mask_losses(
    predictions: Predictions,
    targets: Targets,
    image: Tensor,
    anchor: Tensor,
    matched: Tensor,
    config: LossConfig,
    rescoring: MaskRescoring | None,
) -> tuple[Tensor, Tensor]:
    """The mask loss of the positives, and the loss of their masks' scores.

    The mask loss is binary cross-entropy, summed within the object's box and divided by the box's area in pixels.

    Args:
        predictions: of B images.
        targets: of the same images.
        image, anchor, matched: [P] int64 of each positive, by image; `matched` is its object.
        config: with the largest number of positives of an image. If an image has more, so many are drawn. Their mask
            loss is then scaled up to all positives, but the loss of their scores is not, as in the original.
        rescoring: the network whose scores are trained, if there is one.

    Returns:
        Two sums, float32.
    """
    height, width = predictions.prototypes.shape[1:3]
    objects_of = (targets.labels >= 0).sum(dim=1).tolist()
    positives_of = image.bincount(minlength=len(objects_of)).tolist()
    total = predictions.prototypes.new_zeros((), dtype=torch.float32)
    mask_iou = torch.zeros_like(total)
    first_object = first = 0
    # One image at a time: the masks of a whole batch would be the largest tensor of the step.
    for i, (objects, positives) in enumerate(zip(objects_of, positives_of, strict=True)):
        masks = _resized(targets.masks[first_object : first_object + objects], height, width)
        chosen: slice | Tensor = slice(first, first + positives)
        scale = 1.0
        if positives > config.max_masks:
            chosen = first + torch.randperm(positives)[: config.max_masks].to(image.device)
            scale = positives / config.max_masks
        boxes = targets.boxes[i, matched[chosen]]
        coefficients = predictions.coefficients[i, anchor[chosen]].float()
        logits = (coefficients @ predictions.prototypes[i].float().flatten(0, 1).T).unflatten(1, (height, width))
        truth = masks[matched[chosen]]
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        pixels = (boxes[:, 2] - boxes[:, 0]) * width * (boxes[:, 3] - boxes[:, 1]) * height
        total = total + scale * (crop(losses, boxes).sum(dim=(1, 2)) / pixels).sum()
        if rescoring is not None:
            labels = targets.labels[i, matched[chosen]]
            mask_iou = mask_iou + _mask_iou_loss(
                crop(logits.sigmoid(), boxes), truth, labels, rescoring, config.min_rescored_area
            )
        first_object += objects
        first += positives
    return total, mask_iou


def _mask_iou_loss(
    soft: Tensor, truth: Tensor, labels: Tensor, rescoring: MaskRescoring, min_rescored_area: int
) -> Tensor:
    """Smooth L1 between the scores of masks and their IoU with the truth, summed over all but tiny objects.

    The gradient also reaches the masks, through the scores but not through the IoU.

    Args:
        soft: [n, h, w] masks cropped to the boxes of their objects, 0–1.
        truth: [n, h, w], 0 or 1.
        labels: [n] int64, classes from 0.
        rescoring: gives the scores.
        min_rescored_area: pixels that a mask of `truth` must exceed.
    """
    large = truth.sum(dim=(1, 2)) > min_rescored_area
    soft, truth = soft[large], truth[large]
    with torch.no_grad():
        binary = (soft > 0.5).float()
        intersection = (binary * truth).sum(dim=(1, 2))
        iou = intersection / (binary.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) - intersection)
    # It is called without masks too, so that its parameters always have a gradient.
    return F.smooth_l1_loss(rescoring(soft, labels[large]), iou, reduction="sum")


def _semantic_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Binary cross-entropy of `logits` [B, classes, h, w] with the union of each class's masks.

    It is summed over images and classes, and divided by the number of pixels.
    """
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
    """Packed masks [n, S, ⌈S/8⌉] resized to [n, height, width] float32, 0 or 1."""
    if len(masks) == 0:
        return masks.new_zeros((0, height, width), dtype=torch.float32)
    small = masks.new_empty((len(masks), height, width), dtype=torch.float32)
    # A few at a time: the floats of a thousand masks would be the largest tensor of the step.
    for some, result in zip(masks.split(_RESIZED_AT_ONCE), small.split(_RESIZED_AT_ONCE), strict=True):
        resized = F.interpolate(
            unpack(some)[:, None].float(), size=(height, width), mode="bilinear", align_corners=False
        )
        result.copy_(resized[:, 0] > 0.5)
    return small
