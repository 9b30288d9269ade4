"""The operators in plain PyTorch: the specification that the CPU and CUDA kernels are tested against.

Slow and memory-hungry on purpose: each line is a line of the definition.
Shapes and meanings are documented with the operators in this package.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_iou(boxes: Tensor) -> Tensor:
    """IoU of every pair of xyxy `boxes` [..., n, 4], as [..., n, n]; 0 where the union is empty."""
    upper_left = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    lower_right = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    sides = (lower_right - upper_left).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    union = area[..., :, None] + area[..., None, :] - intersection
    return torch.where(union > 0, intersection / union, torch.zeros_like(union))


def fast_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, top_k: int, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `yolact.ops.fast_nms`."""
    batch = boxes.shape[0]
    indices = boxes.new_full((batch, max_detections), -1, dtype=torch.long)
    classes = boxes.new_full((batch, max_detections), -1, dtype=torch.long)
    kept_scores = scores.new_zeros((batch, max_detections))
    counts = boxes.new_zeros((batch,), dtype=torch.long)
    if scores.shape[2] == 0:
        return indices, classes, kept_scores, counts
    for image in range(batch):
        anchors = (scores[image].amax(dim=1).float() > score_threshold).nonzero()[:, 0]
        ranked, order = scores[image, anchors].T.sort(dim=1, descending=True, stable=True)
        ranked, order = ranked[:, :top_k], order[:, :top_k]
        candidates = anchors[order]
        iou = pairwise_iou(boxes[image, candidates]).triu(diagonal=1)
        keep = ~(iou > iou_threshold).any(dim=1)
        labels = torch.arange(ranked.shape[0], device=boxes.device)[:, None].expand_as(ranked)
        best, best_order = ranked[keep].sort(descending=True, stable=True)
        count = min(best.shape[0], max_detections)
        kept_scores[image, :count] = best[:count]
        indices[image, :count] = candidates[keep][best_order][:count]
        classes[image, :count] = labels[keep][best_order][:count]
        finite = not scores[image].isnan().any() and boxes[image, indices[image, :count]].isfinite().all()
        counts[image] = count if finite else -1
    return indices, classes, kept_scores, counts


def inside(start: Tensor, end: Tensor, size: int, padding: int) -> Tensor:
    """Whether each of `size` columns (or rows) lies between relative `start` and `end` [...], padded: [..., size]."""
    first = (torch.minimum(start, end) * size - padding).clamp(min=0)
    last = (torch.maximum(start, end) * size + padding).clamp(max=size)
    position = torch.arange(size, device=start.device, dtype=start.dtype)
    return (position >= first[..., None]) & (position < last[..., None])


def crop(masks: Tensor, boxes: Tensor, padding: int = 1) -> Tensor:
    """See `yolact.ops.crop`."""
    height, width = masks.shape[-2:]
    columns = inside(boxes[..., 0], boxes[..., 2], width, padding)
    rows = inside(boxes[..., 1], boxes[..., 3], height, padding)
    return torch.where(rows[..., :, None] & columns[..., None, :], masks, torch.zeros_like(masks))


def assemble_masks(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    """See `yolact.ops.assemble_masks`."""
    soft = torch.einsum("...hwk,...nk->...nhw", prototypes.float(), coefficients.float()).sigmoid()
    soft = crop(soft, boxes)
    if soft.numel() == 0:
        return soft.new_zeros((*soft.shape[:-2], height, width), dtype=torch.bool)
    planes = soft.reshape(-1, 1, *soft.shape[-2:])
    enlarged = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
    return enlarged.reshape(*soft.shape[:-2], height, width) > threshold
