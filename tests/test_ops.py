"""Compares every operator on every device with its reference in plain PyTorch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES

from yolact import ops
from yolact.models.deformable import DeformConv2d, deform_conv2d
from yolact.ops import reference

pytestmark = pytest.mark.usefixtures("two_threads")

FLOATS = [torch.float32, torch.float16, torch.bfloat16]
BOXES = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]])


def random_boxes(*shape: int, degenerate: bool = False) -> torch.Tensor:
    """Relative xyxy boxes of all sizes, some reaching beyond the image. Degenerate ones are flat, inverted or NaN."""
    centre = torch.rand(*shape, 2) * 1.2 - 0.1
    side = torch.empty(*shape, 2).uniform_(-4, 0.2).exp()
    boxes = torch.cat((centre - side / 2, centre + side / 2), dim=-1)
    if degenerate:
        kind = torch.randint(0, 8, shape)
        boxes[kind == 0] = boxes[kind == 0][:, [2, 3, 0, 1]]
        boxes[kind == 1, 2] = boxes[kind == 1, 0]
        boxes[kind == 2] += 3
        boxes[kind == 3, 0] = float("nan")
    return boxes


def on_grid(boxes: torch.Tensor, cells: int) -> torch.Tensor:
    """Moves the sides of boxes onto pixel borders, where rounding decides."""
    return (boxes * cells).round() / cells


# fast_nms


def check_fast_nms(boxes, scores, device, iou=0.5, top_k=50, threshold=0.3, maximum=60):
    expected = reference.fast_nms(boxes, scores, iou, top_k, threshold, maximum)
    actual = ops.fast_nms(boxes.to(device), scores.to(device), iou, top_k, threshold, maximum)
    for name, a, b in zip(("indices", "classes", "scores", "counts"), expected, actual, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b.cpu()), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(1, 50, 3), (3, 700, 20), (2, 3000, 80), (1, 1, 1)])
def test_fast_nms_equals_reference(shape, seed, device):
    torch.manual_seed(seed)
    batch, anchors, classes = shape
    check_fast_nms(random_boxes(batch, anchors), torch.rand(batch, anchors, classes), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_fast_nms_ties_rank_by_class_then_anchor(dtype, device):
    torch.manual_seed(0)
    scores = ((torch.rand(2, 400, 9) * 6).round() / 6).to(dtype)
    scores[0, ::7] = -0.0
    check_fast_nms(on_grid(random_boxes(2, 400), 8), scores, device)
    check_fast_nms(random_boxes(2, 400), torch.full((2, 400, 9), 0.5, dtype=dtype), device, top_k=7, maximum=20)
    many = ((torch.rand(1, 3000, 9) * 3).round() / 3).to(dtype)
    check_fast_nms(random_boxes(1, 3000), many, device, top_k=300, maximum=1000)
    check_fast_nms(random_boxes(1, 50), torch.full((1, 50, 2), 0.3, dtype=dtype), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 0, 3), (2, 5, 0), (1, 40, 4)])
def test_fast_nms_without_candidates(shape, device):
    batch, anchors, classes = shape
    scores = torch.rand(batch, anchors, classes) * 0.2
    check_fast_nms(random_boxes(batch, anchors), scores, device)
    counts = ops.fast_nms(random_boxes(batch, anchors).to(device), scores.to(device), 0.5, 10, 0.3, 5)[3]
    assert counts.tolist() == [0] * batch


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("top_k", "maximum"), [(1, 1), (200, 100), (7, 3), (1000, 1000), (5, 0)])
def test_fast_nms_limits(top_k, maximum, device):
    torch.manual_seed(1)
    check_fast_nms(random_boxes(2, 900), torch.rand(2, 900, 5), device, top_k=top_k, threshold=0.0, maximum=maximum)


@pytest.mark.parametrize("device", DEVICES)
def test_fast_nms_takes_strided_scores_and_degenerate_boxes(device):
    torch.manual_seed(2)
    with_background = torch.rand(2, 300, 6, device=device)
    boxes = on_grid(random_boxes(2, 300), 4)
    actual = ops.fast_nms(boxes.to(device), with_background[:, :, 1:], 0.5, 50, 0.3, 60)
    expected = reference.fast_nms(boxes, with_background[:, :, 1:].cpu(), 0.5, 50, 0.3, 60)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, actual, strict=True))
    check_fast_nms(random_boxes(2, 300), torch.rand(5, 300, 2).permute(2, 1, 0), device)
    flat = random_boxes(2, 300)
    flat[..., 2] = flat[..., 0]
    check_fast_nms(flat, torch.rand(2, 300, 5), device)


@pytest.mark.cuda
def test_fast_nms_on_cuda_takes_up_to_1024():
    torch.manual_seed(1)
    boxes, scores = random_boxes(1, 3000), torch.rand(1, 3000, 4)
    check_fast_nms(boxes, scores, "cuda", top_k=1024, threshold=0.0, maximum=1024)
    for top_k, maximum, name in ((1025, 5, "top_k"), (5, 1025, "max_detections")):
        with pytest.raises(RuntimeError, match=f"{name} must be at most 1024 on CUDA, got 1025"):
            ops.fast_nms(boxes.cuda(), scores.cuda(), 0.5, top_k, 0.1, maximum)


@pytest.mark.parametrize("device", DEVICES)
def test_fast_nms_says_which_image_is_not_finite(device):
    torch.manual_seed(3)
    boxes, scores = random_boxes(4, 200), torch.rand(4, 200, 3)
    scores[1, 17, 2] = float("nan")
    boxes[2, scores[2].amax(dim=1).argmax(), 1] = float("inf")
    counts = ops.fast_nms(boxes.to(device), scores.to(device), 0.5, 50, 0.3, 60)[3].tolist()
    assert counts[1] == counts[2] == -1
    assert counts[0] > 0
    assert counts[3] > 0


@pytest.mark.parametrize("device", DEVICES)
def test_a_suppressed_box_still_suppresses(device):
    # b overlaps a, c overlaps b but not a: greedy NMS would keep c.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]], device=device)
    scores = torch.tensor([[[0.9], [0.8], [0.7]]], device=device)
    indices, classes, kept, counts = ops.fast_nms(boxes, scores, 0.4, 10, 0.1, 5)
    assert counts.tolist() == [1]
    assert indices[0].tolist() == [0, -1, -1, -1, -1]
    assert classes[0].tolist() == [0, -1, -1, -1, -1]
    assert kept[0].tolist() == pytest.approx([0.9, 0, 0, 0, 0])


# detect

CODING = (0.1, 0.2, math.inf, False)


def check_detect(deltas, logits, anchors, device, coding=CODING, iou=0.5, top_k=50, threshold=0.3, maximum=60):
    """Checks for the same detections. Probabilities and corners may differ by rounding."""
    options = (*coding, iou, top_k, threshold, maximum)
    expected = reference.detect(deltas, logits, anchors, *options)
    actual = ops.detect(deltas.to(device), logits.to(device), anchors.to(device), *options)
    for name, a, b in zip(("boxes", "scores", "classes", "indices", "counts"), expected, actual, strict=True):
        assert a.dtype == b.dtype, name
        torch.testing.assert_close(
            b.cpu(), a, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda text, name=name: name + text
        )
    return expected


def random_heads(batch, anchors, classes, dtype=torch.float32, spread=3.0):
    deltas = (torch.randn(batch, anchors, 4) * 2).to(dtype)
    return deltas, (torch.randn(batch, anchors, 1 + classes) * spread).to(dtype), random_boxes(anchors)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 50, 3), (3, 700, 20), (2, 3000, 80), (1, 1, 1), (0, 5, 2), (2, 0, 3), (2, 5, 0)])
def test_detect_equals_reference(shape, dtype, device):
    torch.manual_seed(5)
    # Half precision has few values: random ones repeat, and the order of equal scores depends on the last bit.
    check_detect(*random_heads(*shape, dtype), device, maximum=60 if dtype == torch.float32 else 10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 0.999, 1.0, -1.0])
def test_detect_thresholds(threshold, device):
    torch.manual_seed(6)
    heads = random_heads(2, 600, 7)
    heads[1][0, :, 0] += 200  # the background's logit is so large that the other probabilities are 0 in float32
    heads[1][1, :, 0] -= 200
    check_detect(*heads, device, threshold=threshold)


@pytest.mark.parametrize("device", DEVICES)
def test_detect_clamps_and_clips(device):
    torch.manual_seed(7)
    deltas, logits, anchors = random_heads(2, 500, 4)
    deltas[:, ::3] *= 20
    check_detect(deltas, logits, anchors, device, coding=(0.1, 0.2, 4.135, True))
    own_anchors = torch.stack((anchors, anchors.flip(0)))
    check_detect(deltas, logits, own_anchors, device, coding=(0.1, 0.2, 1.0, False))
    strided = logits.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    check_detect(deltas[:, ::2], strided[:, ::2], anchors[::2], device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_detect_says_which_image_is_not_finite(value, device):
    torch.manual_seed(8)
    deltas, logits, anchors = random_heads(5, 200, 3)
    logits[1, 17, 2] = value
    logits[2, 3] = -math.inf
    logits[4, 3, 1:] = -math.inf  # an image with only background is valid
    deltas[3, logits[3, :, 1:].softmax(-1).amax(-1).argmax()] = value
    logits[3, :, 0] -= 50
    options = (*CODING, 0.5, 50, 0.3, 60)
    counts = ops.detect(deltas.to(device), logits.to(device), anchors.to(device), *options)[4].tolist()
    assert counts[1] == counts[2] == counts[3] == -1
    assert counts[0] > 0
    assert counts[4] > 0


# crop


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("shape", [(5, 33, 47), (2, 3, 16, 8), (7, 1, 1), (0, 9, 9), (4, 0, 5), (13, 20)])
def test_crop_equals_reference(shape, dtype, device):
    torch.manual_seed(0)
    masks = torch.randn(shape).to(dtype)
    for boxes in (
        random_boxes(*shape[:-2]),
        random_boxes(*shape[:-2], degenerate=True) if len(shape) > 2 else random_boxes(),
        on_grid(random_boxes(*shape[:-2]), max(shape[-1], 1)),
    ):
        for padding in (0, 1, 3):
            actual = ops.crop(masks.to(device), boxes.to(device), padding)
            assert actual.dtype == dtype
            assert torch.equal(actual.cpu(), reference.crop(masks, boxes, padding))


@pytest.mark.parametrize("device", DEVICES)
def test_crop_takes_any_strides(device):
    torch.manual_seed(1)
    masks, boxes = torch.randn(20, 24, 6), random_boxes(12)
    actual = ops.crop(masks.to(device).permute(2, 0, 1)[:, ::2], boxes.to(device)[::2])
    assert torch.equal(actual.cpu(), reference.crop(masks.permute(2, 0, 1)[:, ::2], boxes[::2]))


@pytest.mark.parametrize("device", DEVICES)
def test_crop_gradient(device):
    torch.manual_seed(2)
    masks = torch.randn(3, 7, 9, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: ops.crop(values, BOXES.to(device)), masks)
    ops.crop(masks, BOXES.to(device)).sum().backward()
    assert torch.equal(masks.grad.cpu(), reference.crop(torch.ones(3, 7, 9, dtype=torch.float64), BOXES))


# assemble_masks


def check_assemble_masks(prototypes, coefficients, boxes, height, width, device, threshold=0.5):
    """Checks for equality, except where the reference's value is within 1e-5 of the threshold."""
    actual = ops.assemble_masks(
        prototypes.to(device), coefficients.to(device), boxes.to(device), height, width, threshold
    ).cpu()
    expected = reference.assemble_masks(prototypes, coefficients, boxes, height, width, threshold)
    assert actual.dtype == torch.bool
    assert actual.shape == expected.shape
    differing = actual != expected
    if differing.any():
        soft = torch.einsum("...hwk,...nk->...nhw", prototypes.float(), coefficients.float()).sigmoid()
        planes = reference.crop(soft, boxes).reshape(-1, 1, *soft.shape[-2:])
        values = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False).view(actual.shape)
        assert (values[differing] - threshold).abs().max() <= 1e-5


def random_assembly(count, height, width, channels=32, dtype=torch.float32, batch=()):
    prototypes = torch.randn(*batch, height, width, channels).relu().to(dtype)
    return prototypes, torch.randn(*batch, count, channels).tanh().to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("image", [(48, 64), (550, 550), (33, 21), (1, 1), (7, 300), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("grid", [(138, 138), (17, 23), (1, 1), (300, 290)])
def test_assemble_masks_equals_reference(grid, image, device):
    torch.manual_seed(0)
    prototypes, coefficients = random_assembly(9, *grid)
    check_assemble_masks(prototypes, coefficients, random_boxes(9), *image, device)
    check_assemble_masks(prototypes, coefficients, on_grid(random_boxes(9), grid[1]), *image, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [1, 5, 32, 33])
def test_assemble_masks_dtypes_and_channels(dtype, channels, device):
    torch.manual_seed(1)
    prototypes, coefficients = random_assembly(6, 40, 56, channels, dtype)
    check_assemble_masks(prototypes, coefficients, random_boxes(6, degenerate=True), 123, 201, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_assemble_masks_thresholds(threshold, device):
    torch.manual_seed(2)
    prototypes, coefficients = random_assembly(6, 40, 56)
    check_assemble_masks(prototypes, coefficients, random_boxes(6), 80, 90, device, threshold)


@pytest.mark.parametrize("device", DEVICES)
def test_assemble_masks_batched_strided_and_empty(device):
    torch.manual_seed(3)
    prototypes, coefficients = random_assembly(5, 20, 24, batch=(3,))
    check_assemble_masks(prototypes, coefficients, random_boxes(3, 5), 50, 70, device)
    planes = torch.randn(32, 20, 24).relu().permute(1, 2, 0)
    coefficients, boxes = torch.randn(32, 5), random_boxes(10)
    actual = ops.assemble_masks(planes.to(device), coefficients.to(device).T, boxes.to(device)[::2], 50, 70)
    assert torch.equal(
        actual.cpu(), ops.assemble_masks(planes, coefficients.T.contiguous(), boxes[::2].clone(), 50, 70)
    )
    check_assemble_masks(planes, coefficients.T, boxes[::2], 50, 70, device)
    check_assemble_masks(planes, torch.zeros(0, 32), BOXES[:0], 6, 7, device)


@pytest.mark.parametrize("device", DEVICES)
def test_assemble_many_large_masks(device):
    torch.manual_seed(4)
    prototypes, coefficients = random_assembly(120, 138, 138)
    boxes = torch.tensor([0.02, 0.03, 0.98, 0.97]).expand(120, 4) + torch.randn(120, 4) * 0.02
    check_assemble_masks(prototypes, coefficients, boxes, 360, 480, device)


# assemble_crops and assemble_runs


def pasted(pixels, crops, offsets, height, width):
    """Pastes crops onto canvases, and checks the crops against the expected rectangles."""
    assert pixels.dtype == torch.bool
    assert crops.dtype == offsets.dtype == torch.long
    assert offsets[0] == 0
    assert offsets[-1] == len(pixels)
    masks = torch.zeros(len(offsets) - 1, height, width, dtype=torch.bool)
    for n, (left, top, right, bottom) in enumerate(crops.reshape(-1, 4).tolist()):
        part = pixels[offsets[n] : offsets[n + 1]]
        masks[n, top:bottom, left:right] = part.view(bottom - top, right - left).cpu()
    return masks.view(*crops.shape[:-1], height, width)


def check_without_canvas(prototypes, coefficients, boxes, height, width, device, threshold=0.5):
    """Checks for the exact masks of `assemble_masks` on that device, in the rectangles of the reference."""
    arguments = (*(tensor.to(device) for tensor in (prototypes, coefficients, boxes)), height, width, threshold)
    masks = ops.assemble_masks(*arguments).cpu()
    pixels, crops, offsets = ops.assemble_crops(*arguments)
    assert torch.equal(pasted(pixels, crops, offsets, height, width), masks)
    expected = reference.assemble_crops(prototypes, coefficients, boxes, height, width, threshold)
    assert torch.equal(crops.cpu(), expected[1])
    assert torch.equal(offsets.cpu(), expected[2])
    for actual, wanted in zip(ops.assemble_runs(*arguments), reference.run_lengths(masks), strict=True):
        assert actual.dtype == torch.long
        assert torch.equal(actual.cpu(), wanted)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("image", [(48, 64), (33, 21), (1, 1), (7, 300), (300, 7), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("grid", [(138, 138), (17, 23), (1, 1), (300, 290)])
def test_crops_and_runs_are_those_of_the_masks(grid, image, device):
    torch.manual_seed(0)
    prototypes, coefficients = random_assembly(9, *grid)
    boxes = random_boxes(9)
    boxes[0] = torch.tensor([-0.1, -0.1, 1.1, 1.1])
    check_without_canvas(prototypes, coefficients, boxes, *image, device)
    check_without_canvas(prototypes, coefficients, on_grid(boxes, grid[1]), *image, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_crops_and_runs_dtypes_thresholds_and_degenerate_boxes(dtype, threshold, device):
    torch.manual_seed(1)
    prototypes, coefficients = random_assembly(40, 20, 28, 5, dtype)
    check_without_canvas(prototypes, coefficients, random_boxes(40, degenerate=True), 123, 201, device, threshold)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "box",
    [(0, 0, 1, 1), (0, 0, 0.3, 1), (0.7, 0, 1, 1), (0.3, 0, 0.6, 1), (0, 0, 1, 0.2), (0, 0.8, 1, 1), (0.3, 0.8, 1, 1)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_runs_continue_from_one_column_to_the_next(box, sign, device):
    """Boxes along the sides of the image, with masks that are full or, except for rounding, empty."""
    prototypes = torch.ones(12, 15, 1)
    boxes = torch.tensor([box], dtype=torch.float32)
    check_without_canvas(prototypes, torch.full((1, 1), 9.0 * sign), boxes, 37, 41, device)


@pytest.mark.parametrize("device", DEVICES)
def test_crops_and_runs_batched_strided_and_empty(device):
    torch.manual_seed(3)
    prototypes, coefficients = random_assembly(5, 20, 24, batch=(3,))
    check_without_canvas(prototypes, coefficients, random_boxes(3, 5), 50, 70, device)
    planes = torch.randn(32, 20, 24).relu().permute(1, 2, 0)
    check_without_canvas(planes, torch.randn(32, 5).T, random_boxes(10)[::2], 50, 70, device)
    check_without_canvas(planes, torch.zeros(0, 32), BOXES[:0], 6, 7, device)


def test_the_references_follow_their_definitions():
    rle = pytest.importorskip("pycocotools.mask")
    torch.manual_seed(4)
    arguments = (*random_assembly(12, 20, 28), random_boxes(12, degenerate=True), 45, 61)
    masks = reference.assemble_masks(*arguments)
    assert torch.equal(pasted(*reference.assemble_crops(*arguments), 45, 61), masks)
    counts, offsets = reference.assemble_runs(*arguments)
    for mask, begin, end in zip(masks, offsets[:-1], offsets[1:], strict=True):
        runs = {"size": [45, 61], "counts": counts[begin:end].tolist()}
        assert rle.frPyObjects(runs, 45, 61) == rle.encode(np.asfortranarray(mask.numpy().view(np.uint8)))


# deform_columns

GRIDS = [
    (3, 1, 1, 1),
    (3, 2, 1, 1),
    (3, 1, 2, 2),
    (1, 1, 0, 1),
    (3, 3, 0, 1),
    (5, 2, 3, 1),
]  # K, stride, padding, dilation


def output_size(size: int, grid: tuple[int, int, int, int]) -> int:
    kernel_size, stride, padding, dilation = grid
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def random_deformation(shape, grid, dtype=torch.float32, spread=1.5):
    """An input, and offsets, some of which reach far outside it."""
    batch, height, width, _ = shape
    size = (batch, output_size(height, grid), output_size(width, grid))
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    offsets = torch.randn(*size, 2 * grid[0] ** 2, dtype=precise) * spread
    offsets[..., ::7] *= 10
    return torch.randn(shape).to(dtype), offsets, torch.rand(*size, grid[0] ** 2, dtype=precise)


def convolved_by_loops(x, offsets, mask, weight, bias, grid):
    """A modulated deformable convolution in plain loops, in Python's float64."""
    kernel_size, stride, padding, dilation = grid
    batch, channels, height, width = x.shape
    values, shifts, factors, weights = x.tolist(), offsets.tolist(), mask.tolist(), weight.tolist()
    output = torch.empty(batch, len(weights), *mask.shape[1:3], dtype=torch.float64)

    def sampled(plane, y, x):
        top, left = math.floor(y), math.floor(x)
        total = 0.0
        for row in (top, top + 1):
            for column in (left, left + 1):
                if 0 <= row < height and 0 <= column < width:
                    total += plane[row][column] * (1 - abs(y - row)) * (1 - abs(x - column))
        return total

    for b in range(batch):
        for r in range(mask.shape[1]):
            for c in range(mask.shape[2]):
                sums = bias.tolist()
                for tap in range(kernel_size**2):
                    y = r * stride - padding + tap // kernel_size * dilation + shifts[b][r][c][2 * tap]
                    x = c * stride - padding + tap % kernel_size * dilation + shifts[b][r][c][2 * tap + 1]
                    for channel in range(channels):
                        value = sampled(values[b][channel], y, x) * factors[b][r][c][tap]
                        for o in range(len(sums)):
                            sums[o] += value * weights[o][channel][tap // kernel_size][tap % kernel_size]
                output[b, :, r, c] = torch.tensor(sums, dtype=torch.float64)
    return output


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grid", GRIDS)
def test_deformable_convolution_equals_plain_loops(grid, memory_format, device):
    torch.manual_seed(0)
    columns, offsets, mask = random_deformation((2, 7, 9, 3), grid)
    x = columns.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    weight, bias = torch.randn(4, 3, grid[0], grid[0]), torch.randn(4)
    arguments = (x, offsets, mask, weight, bias)
    actual = deform_conv2d(*(tensor.to(device) for tensor in arguments), *grid[1:])
    expected = convolved_by_loops(*(tensor.double() for tensor in arguments), grid)
    assert actual.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("shape", [(2, 12, 15, 70), (1, 1, 1, 1), (0, 5, 5, 4), (3, 4, 20, 33)])
@pytest.mark.parametrize("grid", GRIDS[:3])
def test_deform_columns_equals_reference(grid, shape, dtype, device):
    torch.manual_seed(1)
    arguments = random_deformation(shape, grid, dtype)
    actual = ops.deform_columns(*(tensor.to(device) for tensor in arguments), *grid)
    expected = reference.deform_columns(*arguments, *grid)
    assert actual.dtype == dtype
    rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    torch.testing.assert_close(actual.cpu(), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("device", DEVICES)
def test_deform_columns_takes_any_strides_and_points_at_the_border(device):
    torch.manual_seed(2)
    x, offsets, mask = random_deformation((2, 8, 10, 6), GRIDS[0])
    strided = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for shift in (offsets, offsets.round(), torch.full_like(offsets, -1.0), torch.full_like(offsets, float("nan"))):
        shifted = shift.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
        actual = ops.deform_columns(strided.to(device), shifted.to(device), mask.to(device), 3, 1, 1)
        if shift.isnan().any():
            assert (actual == 0).all()
        else:
            torch.testing.assert_close(actual.cpu(), reference.deform_columns(x, shift, mask, 3, 1, 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grid", GRIDS[:3])
def test_deform_columns_gradient(grid, device):
    torch.manual_seed(3)
    arguments = [x.to(device).requires_grad_() for x in random_deformation((2, 4, 5, 3), grid, torch.float64)]
    assert torch.autograd.gradcheck(lambda *tensors: ops.deform_columns(*tensors, *grid), arguments)
    x, offsets, mask = random_deformation((2, 9, 8, 70), grid)
    gradients = []
    for operator, where in ((ops.deform_columns, device), (reference.deform_columns, "cpu")):
        # Whole pixels are tested too: all offsets are 0 at the start of training.
        leaves = [x, torch.where(mask.repeat(1, 1, 1, 2) > 0.5, offsets, offsets.round()), mask]
        leaves = [leaf.to(where).requires_grad_() for leaf in leaves]
        columns = operator(*leaves, *grid)
        (columns * torch.linspace(-1, 1, columns.numel(), device=where).view_as(columns)).sum().backward()
        gradients.append([leaf.grad.cpu() for leaf in leaves])
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_new_deformable_convolution_is_half_a_plain_one(device):
    torch.manual_seed(4)
    conv = DeformConv2d(5, 6, stride=2).to(device)
    x = torch.randn(2, 5, 9, 12, device=device)
    expected = F.conv2d(x, conv.weight / 2, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.jit.script(conv)(x), conv(x))
    half = conv.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)


# all of them


def sample_calls(device: str):
    torch.manual_seed(4)
    prototypes, coefficients = (tensor.to(device) for tensor in random_assembly(4, 10, 12))
    masks = torch.randn(3, 8, 9, device=device, requires_grad=True)
    deformation = [tensor.to(device).requires_grad_() for tensor in random_deformation((2, 6, 7, 8), GRIDS[0])]
    return [
        ("fast_nms", (random_boxes(2, 40).to(device), torch.rand(2, 40, 3, device=device), 0.5, 10, 0.1, 8)),
        ("detect", (*(tensor.to(device) for tensor in random_heads(2, 40, 3)), *CODING, 0.5, 10, 0.1, 8)),
        ("crop", (masks, BOXES.to(device))),
        ("assemble_masks", (prototypes, coefficients, random_boxes(4).to(device), 20, 30)),
        ("assemble_crops", (prototypes, coefficients, random_boxes(4).to(device), 20, 30)),
        ("assemble_runs", (prototypes, coefficients, random_boxes(4).to(device), 20, 30)),
        ("deform_columns", (*deformation, 3, 1, 1)),
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("index", range(7))
def test_opcheck(index, device):
    name, arguments = sample_calls(device)[index]
    torch.library.opcheck(getattr(torch.ops.yolact, name).default, arguments)


@torch.jit.script
def scripted_ops(boxes: torch.Tensor, scores: torch.Tensor, prototypes: torch.Tensor, coefficients: torch.Tensor):
    kept = torch.ops.yolact.fast_nms(boxes, scores, 0.5, 10, 0.1, 4)
    masks = torch.ops.yolact.assemble_masks(prototypes, coefficients, boxes[0, :4], 20, 30)
    crops = torch.ops.yolact.assemble_crops(prototypes, coefficients, boxes[0, :4], 20, 30)
    runs = torch.ops.yolact.assemble_runs(prototypes, coefficients, boxes[0, :4], 20, 30)
    return kept, torch.ops.yolact.crop(masks.float(), boxes[0, :4]), crops, runs


@pytest.mark.parametrize("device", DEVICES)
def test_operators_script(device):
    calls = dict(sample_calls(device))
    (boxes, scores, *_), (prototypes, coefficients, *_) = calls["fast_nms"], calls["assemble_masks"]
    kept, cropped, crops, runs = scripted_ops(boxes, scores, prototypes, coefficients)
    arguments = (prototypes, coefficients, boxes[0, :4], 20, 30)
    masks = ops.assemble_masks(*arguments).float()
    assert torch.equal(cropped, ops.crop(masks, boxes[0, :4]))
    for actual, expected in (
        (kept, ops.fast_nms(boxes, scores, 0.5, 10, 0.1, 4)),
        (crops, ops.assemble_crops(*arguments)),
        (runs, ops.assemble_runs(*arguments)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["fast_nms", "detect", "crop", "assemble_masks", "deform_columns"])
def test_nothing_waits_for_the_device(name):
    arguments = dict(sample_calls("cuda"))[name]
    operator = getattr(torch.ops.yolact, name)
    expected = operator(*arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            actual = operator(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    pairs = zip(expected, actual, strict=True) if isinstance(expected, tuple) else [(expected, actual)]
    assert all(torch.equal(a, b) for a, b in pairs)


LIMITS = (*CODING, 0.5, 5, 0.1, 5)
B, S, P, C = torch.zeros(1, 5, 4), torch.zeros(1, 5, 3), torch.zeros(6, 7, 32), torch.zeros(5, 32)
D, M = torch.zeros(2, 4, 5, 18), torch.zeros(2, 4, 5, 9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (ops.fast_nms, (B[0], S[0], 0.5, 5, 0.1, 5), r"boxes must be \[B, A, 4\], got \[5, 4\]"),
        (ops.fast_nms, (B, S[:, :4], 0.5, 5, 0.1, 5), r"scores must be \[B, A, classes\].*got \[1, 4, 3\]"),
        (ops.fast_nms, (B.double(), S, 0.5, 5, 0.1, 5), "boxes must be float32"),
        (ops.fast_nms, (B, S.double(), 0.5, 5, 0.1, 5), "float32, float16 or bfloat16"),
        (ops.fast_nms, (B, S, 0.5, 0, 0.1, 5), "top_k must be positive, got 0"),
        (ops.fast_nms, (B, S, 0.5, 5, 0.1, -1), "max_detections must not be negative, got -1"),
        (ops.fast_nms, (B[:0].double(), S[:0], 0.5, 5, 0.1, 5), "boxes must be float32"),
        (ops.detect, (B[0], S, B[0], *LIMITS), r"box_deltas must be \[B, A, 4\], got \[5, 4\]"),
        (ops.detect, (B, S[:, :4], B[0], *LIMITS), r"logits must be \[B, A, 1 \+ classes\].*got \[1, 4, 3\]"),
        (ops.detect, (B, S, B[0, :4], *LIMITS), r"anchors must be \[A, 4\] or \[B, A, 4\].*got \[4, 4\]"),
        (ops.detect, (B, S.half(), B[0], *LIMITS), "must have one dtype"),
        (ops.detect, (B, S, B[0].double(), *LIMITS), "anchors must be float32"),
        (ops.detect, (B, S, B[0], *CODING, 0.5, 0, 0.1, 5), "detect: top_k must be positive, got 0"),
        (ops.crop, (P, B), r"got masks \[6, 7, 32\] and boxes \[1, 5, 4\]"),
        (ops.crop, (P, B[0, :1].repeat(6, 1), -1), "padding must not be negative"),
        (ops.assemble_masks, (P, C[:, :9], B[0], 5, 5), r"got \[6, 7, 32\], \[5, 9\] and \[5, 4\]"),
        (ops.assemble_masks, (P, C.half(), B[0], 5, 5), "must have one dtype"),
        (ops.assemble_masks, (P, C, B[0], 0, 5), "height and width must be positive, got 0 and 5"),
        (ops.assemble_masks, (P, C, B[0], 5, 5, -0.5), "threshold must not be negative"),
        (ops.assemble_masks, (P[:0], C, B[0], 5, 5), "prototypes must not be empty"),
        (ops.assemble_masks, (P, C, B[0], 2**32, 2**32), "5 masks of height 4294967296 .* are too large"),
        (ops.assemble_crops, (P, C[:, :9], B[0], 5, 5), r"assemble_crops: .*got \[6, 7, 32\], \[5, 9\] and \[5, 4\]"),
        (ops.assemble_runs, (P, C, B[0], 5, 5, -0.5), "assemble_runs: threshold must not be negative"),
        (ops.deform_columns, (D[0], D, M, 3, 1, 1), r"input must be \[B, H, W, C\], got \[4, 5, 18\]"),
        (ops.deform_columns, (D[:, :0], D, M, 3, 1, 2), r"input must have pixels, got \[2, 0, 5, 18\]"),
        (ops.deform_columns, (D, D, M, 3), r"needs offsets \[2, 2, 3, 18\].*got \[2, 4, 5, 18\] and \[2, 4, 5, 9\]"),
        (ops.deform_columns, (D, D, M, 3, 0, 1), "must be positive and padding not negative, got 3, 0, 1 and 1"),
        (ops.deform_columns, (D.half(), D.half(), M, 3, 1, 1), "offsets and mask must be float32"),
        (ops.deform_columns, (D.int(), D, M, 3, 1, 1), "float32, float16 or bfloat16"),
    ],
)
def test_wrong_arguments_are_refused(operator, arguments, message, device):
    with pytest.raises(RuntimeError, match=message):
        operator(*(value.to(device) if isinstance(value, torch.Tensor) else value for value in arguments))
