"""Compares matching and losses with a recording of the original and with the rules written as plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, PARITY, recorded_state, recording

from yolact.benchmark import deterministic
from yolact.config import LossConfig, get_preset
from yolact.data.packed import pack, unpack
from yolact.data.targets import Targets
from yolact.models.anchors import encode, make_anchors
from yolact.models.rescoring import MaskRescoring
from yolact.models.yolact import Predictions, Yolact, build_model
from yolact.ops.reference import decode
from yolact.training.losses import Counts, Losses, _resized, class_loss, count, loss_sums, normalised
from yolact.training.matching import BACKGROUND, IGNORED, match
from yolact.weights.checkpoints import load_weights
from yolact.weights.layouts import name_in_original

CONFIG = LossConfig()


def ellipses(boxes: np.ndarray, size: int) -> torch.Tensor:
    """Masks of ellipses inscribed in relative xyxy boxes, [N, size, size] bool."""
    position = (np.arange(size) + 0.5) / size
    centre, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    x = ((position[None] - centre[:, :1]) / (sides[:, :1] / 2)) ** 2
    y = ((position[None] - centre[:, 1:]) / (sides[:, 1:] / 2)) ** 2
    return torch.from_numpy(x[:, None, :] + y[:, :, None] <= 1)


def targets_of(boxes: list[np.ndarray], labels: list[np.ndarray], size: int) -> Targets:
    """Objects come first, crowds after them, padding last."""
    longest = max(map(len, labels), default=0)
    padded = torch.zeros(len(boxes), longest, 4)
    padded_labels = torch.full((len(boxes), longest), -2)
    for i, (of_image, classes) in enumerate(zip(boxes, labels, strict=True)):
        padded[i, : len(classes)] = torch.from_numpy(of_image.reshape(-1, 4)).float()
        padded_labels[i, : len(classes)] = torch.from_numpy(classes)
    objects = [of_image[classes >= 0] for of_image, classes in zip(boxes, labels, strict=True)]
    return Targets(padded, padded_labels, pack(ellipses(np.concatenate(objects), size)))


def random_objects(generator: np.random.Generator, count: int, num_classes: int, crowds: int = 0):
    corner = generator.uniform(0, 0.8, (count, 2))
    boxes = np.concatenate((corner, (corner + generator.uniform(0.02, 0.4, (count, 2))).clip(max=1)), axis=1)
    labels = generator.integers(0, num_classes, count)
    labels[count - crowds :] = -1
    return boxes.astype(np.float32), labels


def to(targets: Targets, device: str) -> Targets:
    return Targets(*(tensor.to(device) for tensor in targets))


def losses_of(model: Yolact, images: torch.Tensor, targets: Targets):
    size = images.shape[-1]
    anchors = model.anchors(size, size).to(images.device)
    matches = match(targets.boxes, targets.labels, anchors, model.preset.loss)
    predictions, semantic = model.forward_training(images)
    sums = loss_sums(
        predictions, semantic, targets, matches, anchors, model.preset.loss, model.preset.variances, model.rescoring
    )
    return sums, count(matches)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", sorted(path.stem.removeprefix("loss_") for path in PARITY.glob("loss_*.npz")))
def test_losses_and_gradients_equal_the_originals(preset, device):
    recorded = recording(f"loss_{preset}")
    model = build_model(preset).eval()
    load_weights(model, recorded_state(preset, float(recorded["score_gain"])))
    model.to(device)
    height, width = recorded["input_hw"]
    inputs = np.concatenate([deterministic.network_input(seed, height, width) for seed in recorded["input_seeds"]])
    boxes = [recorded["boxes_0"], recorded["boxes_1"]]
    targets = to(targets_of(boxes, [recorded["labels_0"], recorded["labels_1"]], height), device)
    sums, counts = losses_of(model, torch.from_numpy(inputs).to(device), targets)
    losses = normalised(sums, counts, model.preset.loss)
    for part, key in zip(losses, "BCMSI", strict=True):
        if key == "I" and not model.preset.rescores_masks:
            continue
        assert part.item() == pytest.approx(float(recorded[f"loss_{key}"]), rel=1e-3), key
    losses.total().backward()
    norms = {name_in_original(name): value.grad for name, value in model.named_parameters()}
    checked = [key for key in recorded if key.startswith("gradnorm_")]
    assert checked
    for key in checked:
        norm = norms[key.removeprefix("gradnorm_")].norm().item()
        assert norm == pytest.approx(float(recorded[key]), rel=1e-2), key


def matched_by_loops(boxes, labels, anchors, config):
    """Matches one object of one image at a time, as the rules say."""
    boxes, anchors = boxes.double(), anchors.double()
    iou = {}
    result, objects = [], []
    for a, (x1, y1, x2, y2) in enumerate(anchors.tolist()):
        best, best_object, crowded = -1.0, 0, 0.0
        for m, (u1, v1, u2, v2) in enumerate(boxes.tolist()):
            overlap = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            area = (x2 - x1) * (y2 - y1)
            if labels[m] >= 0:
                iou[m, a] = overlap / (area + (u2 - u1) * (v2 - v1) - overlap)
                if iou[m, a] > best:
                    best, best_object = iou[m, a], m
            elif labels[m] == -1:
                crowded = max(crowded, overlap / area)
        objects.append(best_object)
        if best >= config.positive_iou:
            result.append(int(labels[best_object]) + 1)
        elif best >= config.negative_iou:
            result.append(IGNORED)
        else:
            result.append(IGNORED if crowded > config.crowd_overlap else BACKGROUND)
    free_anchors, free_objects = set(range(len(anchors))), {m for m, _ in iou}
    while free_objects and free_anchors:
        pairs = ((iou[m, a], -m, -a) for m in free_objects for a in free_anchors)
        _, m, a = max(pairs)
        m, a = -m, -a
        result[a], objects[a] = int(labels[m]) + 1, m
        free_objects.remove(m)
        free_anchors.remove(a)
    return result, objects


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(6))
def test_matching_equals_plain_loops(seed, device):
    generator = np.random.default_rng(seed)
    anchors = make_anchors(replace(get_preset("yolact_resnet50").anchors, aspect_ratios=(1,)), 64, 64)
    chosen = [random_objects(generator, n, 5, crowds) for n, crowds in ((12, 2), (1, 0), (0, 0), (2, 2), (30, 1))]
    # Several objects in one place share their best anchor.
    chosen[4][0][:6] = chosen[4][0][0] + generator.uniform(0, 1e-3, (6, 4)).astype(np.float32)
    targets = targets_of([boxes for boxes, _ in chosen], [labels for _, labels in chosen], 8)
    matches = match(targets.boxes.to(device), targets.labels.to(device), anchors.to(device), CONFIG)
    for i, (boxes, labels) in enumerate(chosen):
        expected, objects = matched_by_loops(torch.from_numpy(boxes), labels, anchors, CONFIG)
        assert matches.labels[i].tolist() == expected
        positive = matches.positive[i].cpu()
        assert matches.objects[i].cpu()[positive].tolist() == torch.tensor(objects)[positive].tolist()


def test_equal_objects_take_different_anchors():
    anchors = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 0.6]])
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]] * 3])
    matches = match(boxes, torch.tensor([[4, 5, 6]]), anchors, CONFIG)
    assert matches.labels.tolist() == [[5, 7, 6]]  # the third object is matched last, whatever its IoU


def test_more_objects_than_anchors():
    matches = match(torch.tensor([[[0.0, 0.0, 1.0, 1.0]] * 3]), torch.tensor([[0, 1, 2]]), torch.eye(4)[3:], CONFIG)
    assert matches.labels.shape == (1, 1)


def test_crowds_are_not_targets_and_their_background_is_ignored():
    anchors = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.15, 0.1, 0.6, 0.2], [0.8, 0.8, 0.9, 0.9]])
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]])
    matches = match(boxes, torch.tensor([[-1, -2]]), anchors, CONFIG)
    assert matches.labels.tolist() == [[IGNORED, IGNORED, BACKGROUND]]


def test_encoding_is_the_inverse_of_decoding():
    anchors = make_anchors(get_preset("yolact_resnet50").anchors, 64, 64)
    deltas = torch.randn(len(anchors), 4)
    assert encode(decode(deltas, anchors, (0.1, 0.2)), anchors, (0.1, 0.2)).allclose(deltas, atol=1e-3)


def test_hard_negatives_are_the_hardest_three_for_each_positive():
    torch.manual_seed(0)
    logits = torch.randn(3, 60, 4)
    labels = torch.zeros(3, 60, dtype=torch.long)
    labels[0, 7], labels[0, 9], labels[0, 20:50] = 2, 1, IGNORED
    labels[1, :50] = 3  # fewer than three negatives for each positive
    expected = 0.0
    for i in range(3):
        losses = F.cross_entropy(logits[i], labels[i].clamp(min=0), reduction="none")
        positives = int((labels[i] > 0).sum())
        negatives = losses[labels[i] == 0].sort(descending=True)[0]
        expected += losses[labels[i] > 0].sum() + negatives[: 3 * positives or CONFIG.empty_image_negatives].sum()
    assert class_loss(logits, labels, CONFIG).item() == pytest.approx(expected.item(), rel=1e-6)


def made_up(targets: Targets, size: int = 64, num_classes: int = 5):
    """Predictions that need a gradient, for the anchors of a small image."""
    torch.manual_seed(1)
    anchors = make_anchors(get_preset("yolact_resnet50").anchors, size, size)
    batch, prototypes = len(targets.labels), 6
    predictions = Predictions(
        torch.randn(batch, len(anchors), 4),
        torch.randn(batch, len(anchors), 1 + num_classes),
        torch.randn(batch, len(anchors), prototypes).tanh(),
        torch.randn(batch, size // 4, size // 4, prototypes).relu(),
    )
    semantic = torch.randn(batch, num_classes, size // 8, size // 8)
    for tensor in (*predictions, semantic):
        tensor.requires_grad_()
    return predictions, semantic, anchors


def sums_of(targets: Targets, config: LossConfig = CONFIG):
    predictions, semantic, anchors = made_up(targets)
    matches = match(targets.boxes, targets.labels, anchors, config)
    return (
        loss_sums(predictions, semantic, targets, matches, anchors, config, (0.1, 0.2)),
        predictions,
        semantic,
        matches,
    )


def test_masks_and_semantics_equal_plain_loops():
    generator = np.random.default_rng(3)
    chosen = [random_objects(generator, 5, 5, crowds=1), random_objects(generator, 3, 2)]
    targets = targets_of([boxes for boxes, _ in chosen], [labels for _, labels in chosen], 64)
    sums, predictions, semantic, matches = sums_of(targets)
    expected, expected_semantic, first = 0.0, 0.0, 0
    for i, (_, labels) in enumerate(chosen):
        objects = int((labels >= 0).sum())
        masks = unpack(targets.masks[first : first + objects])
        first += objects
        small = F.interpolate(masks[None].float(), (16, 16), mode="bilinear", align_corners=False)[0] > 0.5
        for anchor in matches.positive[i].nonzero()[:, 0]:
            m = matches.objects[i, anchor]
            x1, y1, x2, y2 = (targets.boxes[i, m] * 16).tolist()
            soft = (predictions.prototypes[i] @ predictions.coefficients[i, anchor]).sigmoid()
            loss = F.binary_cross_entropy(soft, small[m].float(), reduction="none")
            rows = slice(math.ceil(max(y1 - 1, 0)), math.ceil(min(y2 + 1, 16)))
            columns = slice(math.ceil(max(x1 - 1, 0)), math.ceil(min(x2 + 1, 16)))
            expected += 6.125 * loss[rows, columns].sum() / ((x2 - x1) * (y2 - y1))
        planes = torch.zeros(5, 8, 8)
        tiny = F.interpolate(masks[None].float(), (8, 8), mode="bilinear", align_corners=False)[0] > 0.5
        for m in range(objects):
            planes[labels[m]] = torch.maximum(planes[labels[m]], tiny[m].float())
        expected_semantic += F.binary_cross_entropy_with_logits(semantic[i], planes, reduction="sum") / 64
    assert sums.masks.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sums.semantic.item() == pytest.approx(expected_semantic.item(), rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("number", [0, 1, 64, 150])
def test_packed_masks_are_resized_as_dense_ones(device, number):
    masks = (torch.rand(number, 51, 51) < 0.5).to(device)
    expected = torch.zeros(0, 16, 12, device=device)
    if number:
        expected = (F.interpolate(masks[None].float(), (16, 12), mode="bilinear")[0] > 0.5).float()
    packed = pack(masks.cpu()).to(device)
    assert torch.equal(unpack(packed), masks)
    assert torch.equal(_resized(packed, 16, 12), expected)


def test_the_loss_of_the_masks_scores_equals_plain_loops():
    generator = np.random.default_rng(7)
    boxes, labels = random_objects(generator, 6, 5, crowds=1)
    boxes[0] = (0.5, 0.5, 0.55, 0.55)  # tiny
    boxes[1] = (0.1, 0.1, 0.6, 0.7)
    other, other_labels = random_objects(generator, 3, 5)
    targets = targets_of([boxes, other], [labels, other_labels], 256)
    predictions, semantic, anchors = made_up(targets, size=256)
    matches = match(targets.boxes, targets.labels, anchors, CONFIG)
    torch.manual_seed(2)
    rescoring = MaskRescoring(5)
    arguments = (predictions, semantic, targets, matches, anchors, CONFIG, (0.1, 0.2))
    sums = loss_sums(*arguments, rescoring)
    plain = loss_sums(*arguments)
    assert plain.mask_iou.item() == 0
    assert torch.equal(torch.stack(plain[:4]), torch.stack(sums[:4]))
    expected, first, left_out = 0.0, 0, 0
    for i, objects in enumerate((5, 3)):
        masks = unpack(targets.masks[first : first + objects])
        first += objects
        small = F.interpolate(masks[None].float(), (64, 64), mode="bilinear", align_corners=False)[0] > 0.5
        for anchor in matches.positive[i].nonzero()[:, 0]:
            m = matches.objects[i, anchor]
            if small[m].sum() <= 25:
                left_out += 1
                continue
            x1, y1, x2, y2 = (targets.boxes[i, m] * 64).tolist()
            soft = (predictions.prototypes[i] @ predictions.coefficients[i, anchor]).sigmoid()
            inside = torch.zeros(64, 64)
            rows = slice(math.ceil(max(y1 - 1, 0)), math.ceil(min(y2 + 1, 64)))
            columns = slice(math.ceil(max(x1 - 1, 0)), math.ceil(min(x2 + 1, 64)))
            inside[rows, columns] = 1
            soft = soft * inside
            iou = ((soft > 0.5) & small[m]).sum() / ((soft > 0.5) | small[m]).sum()
            scores = soft[None, None]
            for conv in rescoring.convs:
                scores = F.conv2d(scores, conv.weight, conv.bias, stride=2).relu()
            scores = F.conv2d(scores, rescoring.classes.weight, rescoring.classes.bias).relu()
            difference = (scores[0, targets.labels[i, m]].max() - iou).abs()
            expected += 25 * torch.where(difference < 1, difference**2 / 2, difference - 0.5)
    assert left_out > 0
    assert sums.mask_iou.item() == pytest.approx(expected.item(), rel=1e-4)
    (expected / 3).backward()  # through the scores, into the masks
    wanted = [predictions.coefficients.grad.clone(), rescoring.convs[0].weight.grad.clone()]
    for tensor in (*predictions, *rescoring.parameters()):
        tensor.grad = None
    (sums.mask_iou / 3).backward()
    torch.testing.assert_close(predictions.coefficients.grad, wanted[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(rescoring.convs[0].weight.grad, wanted[1], rtol=1e-3, atol=1e-4)


def test_without_masks_the_re_scoring_has_a_gradient_of_zero():
    targets = targets_of([np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)], 256)
    predictions, semantic, anchors = made_up(targets, size=256)
    matches = match(targets.boxes, targets.labels, anchors, CONFIG)
    rescoring = MaskRescoring(5)
    loss_sums(predictions, semantic, targets, matches, anchors, CONFIG, (0.1, 0.2), rescoring).total().backward()
    assert all((parameter.grad == 0).all() for parameter in rescoring.parameters())


def test_above_the_limit_a_random_share_of_the_masks_stands_for_all():
    box = np.array([[0.2, 0.2, 0.8, 0.8]], np.float32)
    targets = targets_of([box], [np.array([0])], 64)
    whole, _, _, matches = sums_of(targets)
    assert matches.positive.sum() > 2
    predictions, semantic, anchors = made_up(targets)
    values = []
    for _ in range(200):
        sums = loss_sums(predictions, semantic, targets, matches, anchors, replace(CONFIG, max_masks=2), (0.1, 0.2))
        values.append(sums.masks.item())
    assert len(set(values)) > 1
    assert np.mean(values) == pytest.approx(whole.masks.item(), rel=0.1)
    assert sums.boxes.item() == whole.boxes.item()


def test_shares_of_a_batch_add_up_and_every_output_has_a_gradient():
    generator = np.random.default_rng(5)
    full, empty = random_objects(generator, 4, 5), random_objects(generator, 0, 5)
    both = targets_of([full[0], empty[0]], [full[1], empty[1]], 64)
    sums, predictions, semantic, matches = sums_of(both)
    counts = count(matches)
    assert (counts.empty_images, counts.images) == (1, 2)
    normalised(sums, counts, CONFIG).total().backward()
    total = torch.zeros(5)
    for i in range(2):
        share = Targets(both.boxes[i : i + 1], both.labels[i : i + 1], both.masks[: 4 * (1 - i)])
        parts = Predictions(*(tensor[i : i + 1].detach().requires_grad_() for tensor in predictions))
        logits = semantic[i : i + 1].detach().requires_grad_()
        anchors = made_up(both)[2]
        of_share = match(share.boxes, share.labels, anchors, CONFIG)
        losses = normalised(loss_sums(parts, logits, share, of_share, anchors, CONFIG, (0.1, 0.2)), counts, CONFIG)
        losses.total().backward()
        total += torch.stack(losses).detach()
        for whole, part in zip((*predictions, semantic), (*parts, logits), strict=True):
            assert part.grad is not None
            torch.testing.assert_close(part.grad, whole.grad[i : i + 1])
    torch.testing.assert_close(total, torch.stack(normalised(sums, counts, CONFIG)).detach())


def test_a_batch_without_objects_counts_as_negatives():
    targets = targets_of([np.zeros((0, 4), np.float32)] * 2, [np.zeros(0, np.int64)] * 2, 64)
    sums, predictions, _, matches = sums_of(targets)
    losses = normalised(sums, count(matches), CONFIG)
    assert losses.boxes.item() == losses.masks.item() == 0
    assert 0 < losses.classes.item() < 30
    losses.total().backward()
    assert all(tensor.grad is not None for tensor in predictions)


def test_half_precision_outputs_give_float32_losses():
    generator = np.random.default_rng(5)
    boxes, labels = random_objects(generator, 4, 5)
    targets = targets_of([boxes], [labels], 64)
    predictions, semantic, anchors = made_up(targets)
    matches = match(targets.boxes, targets.labels, anchors, CONFIG)
    half = Predictions(*(tensor.bfloat16() for tensor in predictions))
    sums = loss_sums(half, semantic.bfloat16(), targets, matches, anchors, CONFIG, (0.1, 0.2))
    full = loss_sums(predictions, semantic, targets, matches, anchors, CONFIG, (0.1, 0.2))
    assert all(part.dtype == torch.float32 for part in sums)
    torch.testing.assert_close(torch.stack(sums), torch.stack(full), rtol=0.02, atol=0)


def test_the_normaliser_never_is_zero():
    nothing = torch.tensor(0)
    losses = normalised(Losses(*torch.zeros(5).unbind()), Counts(nothing, nothing, nothing), CONFIG)
    assert all(part.item() == 0 for part in losses)
