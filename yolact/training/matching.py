"""Matching: which anchors learn which objects, for a whole batch at once (YOLACT's rules, after SSD)."""

from typing import NamedTuple

import torch
from torch import Tensor

from yolact.config import LossConfig

BACKGROUND = 0
IGNORED = -1


class Matches(NamedTuple):
    """What A anchors of B images are to predict.

    labels: [B, A] int64: 1 + the object's class, 0 background, −1 ignored.
    objects: [B, A] int64: the object, 0 … M − 1, of a positive anchor; meaningless for the others.
    """

    labels: Tensor
    objects: Tensor

    @property
    def positive(self) -> Tensor:
        """[B, A] bool."""
        return self.labels > BACKGROUND


@torch.no_grad()
def match(boxes: Tensor, labels: Tensor, anchors: Tensor, config: LossConfig) -> Matches:
    """Matches the anchors with the objects of each image.

    An anchor is positive where its best IoU is at least `config.positive_iou`, background where it is less than
    `config.negative_iou`, and ignored between. Then, in order of IoU, each object takes its best anchor that is still
    free, however small the IoU. A background anchor is ignored if more than `config.crowd_overlap` of its area lies in
    a crowd.

    Args:
        boxes: [B, M, 4] float32 xyxy, relative.
        labels: [B, M] int64: class from 0, −1 crowd, −2 padding.
        anchors: [A, 4] float32 xyxy, relative.
        config: the thresholds.
    """
    batch, count = labels.shape
    if count == 0:
        nothing = labels.new_zeros((batch, len(anchors)))
        return Matches(nothing, nothing)
    intersection = _intersection(boxes, anchors)
    anchor_areas = _area(anchors)
    is_object = labels >= 0
    iou = intersection / (_area(boxes)[:, :, None] + anchor_areas - intersection)
    iou = torch.where(is_object[:, :, None], iou, -1.0)  # [B, M, A]

    best_iou, objects = iou.max(dim=1)
    taken, forced = _assign(iou)
    # Objects that take no anchor write into an extra column.
    column = torch.where(forced, taken, len(anchors))
    numbers = torch.arange(count, device=labels.device).expand(batch, count)
    objects = torch.cat((objects, objects[:, :1]), dim=1).scatter_(1, column, numbers)[:, :-1]
    best_iou = torch.cat((best_iou, best_iou[:, :1]), dim=1).scatter_(1, column, 2.0)[:, :-1]

    targets = labels.gather(1, objects) + 1
    targets = torch.where(best_iou < config.positive_iou, IGNORED, targets)
    targets = torch.where(best_iou < config.negative_iou, BACKGROUND, targets)
    in_crowd = ((intersection / anchor_areas > config.crowd_overlap) & (labels == -1)[:, :, None]).any(dim=1)
    return Matches(torch.where(in_crowd & (targets == BACKGROUND), IGNORED, targets), objects)


def _assign(iou: Tensor) -> tuple[Tensor, Tensor]:
    """Each object's best anchor that is still free, in order of IoU, for `iou` [B, M, A] (−1: no pair).

    Objects and anchors rank each other by the same number, so this is their only stable matching (Gale and Shapley,
    1962). All objects propose at once, an anchor keeps its best proposal, and each refused object proposes to its next
    anchor. The number of rounds is that of refusals in a row, not that of objects. Of equal IoU, lower numbers go
    first.

    Returns:
        The anchor [B, M] int64 of each object, and whether [B, M] it has one.
    """
    iou = iou.clone()
    numbers = torch.arange(iou.shape[1], device=iou.device)
    while True:
        value, anchor = iou.max(dim=2)
        proposes = value >= 0
        rivals = (anchor[:, :, None] == anchor[:, None, :]) & proposes[:, None, :]
        better = (value[:, None, :] > value[:, :, None]) | (
            (value[:, None, :] == value[:, :, None]) & (numbers[None, :] < numbers[:, None])
        )
        refused = (rivals & better).any(dim=2) & proposes
        if not refused.any():
            return anchor, proposes
        iou.scatter_(2, anchor[:, :, None], torch.where(refused, -1.0, value)[:, :, None])


def _intersection(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The areas [B, M, A] that boxes [B, M, 4] share with anchors [A, 4]; few tensors of that size are made."""
    x1, y1, x2, y2 = boxes[..., None].unbind(dim=2)
    left, top, right, bottom = anchors.unbind(dim=1)
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    return width.mul_(height)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
