"""The operators in plain PyTorch: the specification that the CPU and CUDA kernels are tested against.

They are slow and need much memory on purpose: each line is a line of the definition. The operators in this package
document shapes and meanings.
"""

import math

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


def decode(deltas: Tensor, anchors: Tensor, variances: tuple[float, float], max_log_scale: float = math.inf) -> Tensor:
    """Decodes deltas to boxes, with SSD's encoding.

    Args:
        deltas: [..., A, 4]: encoded centre x, centre y, width and height.
        anchors: [..., A, 4] xyxy.
        variances: scale of the deltas of centres, and of sizes.
        max_log_scale: largest absolute value of a size's scaled delta.

    Returns:
        [..., A, 4] xyxy in the unit of the anchors.
    """
    anchor_sizes = anchors[..., 2:] - anchors[..., :2]
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * variances[0] * anchor_sizes
    sizes = anchor_sizes * (deltas[..., 2:] * variances[1]).clamp(min=-max_log_scale, max=max_log_scale).exp()
    corner = centres - sizes / 2
    return torch.cat((corner, corner + sizes), dim=-1)


def detect(
    box_deltas: Tensor,
    logits: Tensor,
    anchors: Tensor,
    center_variance: float,
    size_variance: float,
    max_log_scale: float,
    clip: bool,
    iou_threshold: float,
    top_k: int,
    score_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `yolact.ops.detect`."""
    scores = logits.float().softmax(dim=-1)[..., 1:]
    boxes = decode(box_deltas.float(), anchors, (center_variance, size_variance), max_log_scale)
    if clip:
        boxes = boxes.clamp(min=0, max=1)
    indices, classes, kept, counts = fast_nms(boxes, scores, iou_threshold, top_k, score_threshold, max_detections)
    kept_boxes = boxes.gather(1, indices.clamp(min=0)[..., None].expand(-1, -1, 4)) if boxes.shape[1] else boxes
    filled = indices >= 0
    kept_boxes = torch.where(filled[..., None], kept_boxes, 0.0) if boxes.shape[1] else boxes.new_zeros(*kept.shape, 4)
    return kept_boxes, kept, classes, indices, counts


def inside(start: Tensor, end: Tensor, size: int, padding: int) -> Tensor:
    """Whether each of `size` columns or rows lies between `start` and `end` [...] (0–1), padded: [..., size] bool."""
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


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    negative_slope: float = 1.0,
) -> Tensor:
    """See `yolact.ops.convolution`."""
    result = F.conv2d(input.float(), weight.float(), bias, stride, padding)
    if residual is not None:
        result = result + residual.float()
    return F.leaky_relu(result, negative_slope).to(input.dtype)


def reached(start: Tensor, end: Tensor, size: int, image_size: int) -> Tensor:
    """Whether a mask pixel that `crop` keeps contributes to each of `image_size` pixels: [..., image_size] bool."""
    kept = inside(start, end, size, padding=1)
    scale = torch.tensor(float(size), device=start.device) / image_size
    position = (scale * (torch.arange(image_size, device=start.device) + 0.5) - 0.5).clamp(min=0)
    index = position.long().clamp(max=size - 1)
    return kept[..., index] | kept[..., (index + 1).clamp(max=size - 1)]


def assemble_crops(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """See `yolact.ops.assemble_crops`."""
    mask_height, mask_width = prototypes.shape[-3:-1]
    columns = reached(boxes[..., 0], boxes[..., 2], mask_width, width)
    rows = reached(boxes[..., 1], boxes[..., 3], mask_height, height)
    masks = assemble_masks(prototypes, coefficients, boxes, height, width, threshold).reshape(-1, height, width)
    crops, pixels = torch.zeros_like(boxes, dtype=torch.long), [masks.new_zeros(0)]
    for crop, mask, x, y in zip(
        crops.view(-1, 4), masks, columns.reshape(-1, width), rows.reshape(-1, height), strict=True
    ):
        if x.any() and y.any():
            crop[0::2], crop[1::2] = (torch.stack((line.nonzero()[0], line.nonzero()[-1] + 1))[:, 0] for line in (x, y))
        left, top, right, bottom = crop.tolist()
        pixels.append(mask[top:bottom, left:right].flatten())
    return torch.cat(pixels), crops, torch.tensor(list(map(len, pixels)), device=boxes.device).cumsum(0)


def run_lengths(masks: Tensor) -> tuple[Tensor, Tensor]:
    """The counts [R] and offsets [N + 1] of N masks [..., H, W], in the form of `assemble_runs`."""
    columns = masks.reshape(-1, *masks.shape[-2:]).transpose(1, 2).flatten(1).to(torch.int8)
    turns = torch.cat((columns.new_zeros(len(columns), 1), columns), dim=1).diff(dim=1) != 0
    end = torch.tensor([columns.shape[1]], device=masks.device)
    ends = [torch.cat((turn.nonzero()[:, 0], end)) for turn in turns]
    counts = [torch.cat((positions[:1], positions.diff())) for positions in ends]
    offsets = torch.tensor([0, *map(len, ends)], device=masks.device).cumsum(0)
    return torch.cat([end[:0], *counts]), offsets


def assemble_runs(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    """See `yolact.ops.assemble_runs`."""
    return run_lengths(assemble_masks(prototypes, coefficients, boxes, height, width, threshold))


def deform_columns(
    input: Tensor,
    offsets: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """See `yolact.ops.deform_columns`."""
    batch, height, width, _ = input.shape
    rows, columns = mask.shape[1:3]
    tap = torch.arange(kernel_size**2, device=input.device)
    row = torch.arange(rows, device=input.device)[:, None, None] * stride - padding + tap // kernel_size * dilation
    column = torch.arange(columns, device=input.device)[:, None] * stride - padding + tap % kernel_size * dilation
    y, x = row + offsets[..., 0::2], column + offsets[..., 1::2]
    image = torch.arange(batch, device=input.device)[:, None, None, None]
    near = (y > -1) & (x > -1)  # a point at exactly −1 samples nothing and has no gradient
    samples = mask.new_zeros(())
    for below in (0, 1):
        for right in (0, 1):
            # The distance abs(y - corner_y) would not do: its derivative at 0 is 0.
            corner_y, corner_x = y.detach().floor() + below, x.detach().floor() + right
            vertical = y - corner_y + 1 if below else corner_y + 1 - y
            horizontal = x - corner_x + 1 if right else corner_x + 1 - x
            inside = near & (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
            weight = torch.where(inside, vertical * horizontal, 0.0) * mask
            at = corner_y.clamp(0, height - 1).long(), corner_x.clamp(0, width - 1).long()
            samples = samples + weight[..., None] * input[image, at[0], at[1]].to(mask.dtype)
    return samples.to(input.dtype).flatten(3)
