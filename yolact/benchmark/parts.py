"""The parts of the system, each compared with plain PyTorch that does the same."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yolact import ops
from yolact.benchmark.measure import Call, Floor, PeakMemory, Work, take_turns
from yolact.benchmark.report import Row
from yolact.benchmark.untrained import untrained_detector
from yolact.config import get_preset
from yolact.model_zoo import cost_of
from yolact.models import detector as detector_module
from yolact.models.anchors import make_anchors
from yolact.models.detections import Detections
from yolact.models.detector import Detector
from yolact.models.inference import PRECISIONS
from yolact.models.yolact import Predictions, build_model
from yolact.ops import reference

IMAGE_SIZES = [(480, 640), (550, 550), (720, 1280), (1080, 1920)]
DETECTIONS = 100
CANDIDATES_PER_LEVEL = 100  # on five levels, the last of which has 75 anchors: as a busy photograph has


@dataclass(frozen=True)
class Setting:
    """The conditions under which a part is measured.

    precision: one of `PRECISIONS`.
    model: preset of the network, at its own image size.
    """

    device: torch.device
    precision: str = "fp32"
    batch: int = 1
    model: str = "yolact_resnet50"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return PRECISIONS[self.precision]


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same result, and the least work of either."""

    ours: Call
    plain: Call
    work: Work


@dataclass(frozen=True)
class Part:
    """A line of the table.

    build: prepares the comparison; picklable, as memory is measured in another process.
    whole: whether an image goes through all of it, so that images a second mean something.
    only_on: the type of device that has this part; None for all types.
    """

    name: str
    build: Callable[[Setting], Comparison]
    whole: bool = False
    only_on: str | None = None


def random_boxes(count: int) -> Tensor:
    """Relative boxes [count, 4] with sides log-uniform between 4 % and 60 % of the image's, inside the image.

    Each `count`th part of the distribution has one box, so that no draw has much larger boxes than another.
    """
    quantiles = torch.stack((torch.randperm(count), torch.randperm(count)), dim=1).add(torch.rand(count, 2)) / count
    sides = 0.04 * (0.6 / 0.04) ** quantiles
    corner = torch.rand(count, 2) * (1 - sides)
    return torch.cat((corner, corner + sides), dim=1)


def area(boxes: Tensor) -> float:
    """The sum of the areas of relative boxes [..., 4] inside the image; 1 is the whole image."""
    boxes = boxes.clamp(0, 1)
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).sum().item()


def mask_bytes(boxes: Tensor, height: int, width: int) -> float:
    """The bytes of the masks of relative boxes [..., N, 4] that must be written.

    On the CPU only those inside the boxes, because the system provides zeroed pages.
    """
    pixels = area(boxes) if boxes.device.type == "cpu" else boxes[..., 0].numel()
    return pixels * height * width


def assemble_masks(height: int, width: int, setting: Setting) -> Comparison:
    images = []
    work = 0.0
    for _ in range(setting.batch):
        prototypes, coefficients = torch.randn(138, 138, 32).relu(), torch.randn(DETECTIONS, 32).tanh()
        prototypes, coefficients = (x.to(setting.device, setting.dtype) for x in (prototypes, coefficients))
        boxes = random_boxes(DETECTIONS).to(setting.device)
        images.append((prototypes, coefficients, boxes, height, width))
        work += prototypes.nbytes + coefficients.nbytes + boxes.nbytes + mask_bytes(boxes, height, width)
    return Comparison(
        lambda: [ops.assemble_masks(*image) for image in images],
        lambda: [reference.assemble_masks(*image) for image in images],
        Work(bytes=work),
    )


def fast_nms(anchors: int, setting: Setting) -> Comparison:
    boxes = random_boxes(setting.batch * anchors).view(setting.batch, anchors, 4).to(setting.device)
    scores = torch.rand(setting.batch, anchors, 80, device=setting.device).to(setting.dtype)
    arguments = (boxes, scores, 0.5, 200, 0.05, DETECTIONS)
    return Comparison(
        lambda: ops.fast_nms(*arguments), lambda: reference.fast_nms(*arguments), Work(bytes=scores.nbytes)
    )


def detect(confidence: float, setting: Setting) -> Comparison:
    """The operator `detect`; `confidence` is added to the background's logit, and all have a deviation of 2."""
    preset, device = get_preset("yolact_resnet50"), setting.device
    anchors = make_anchors(preset.anchors, preset.image_size, preset.image_size).to(device)
    deltas = torch.randn(setting.batch, len(anchors), 4, device=device).to(setting.dtype)
    logits = torch.randn(setting.batch, len(anchors), 81, device=device) * 2
    logits[:, :, 0] += confidence
    logits = logits.to(setting.dtype)
    arguments = (deltas, logits, anchors, *preset.variances, math.inf, False, 0.5, 200, 0.05, DETECTIONS)
    return Comparison(lambda: ops.detect(*arguments), lambda: reference.detect(*arguments), Work(bytes=logits.nbytes))


def crop(backward: bool, setting: Setting) -> Comparison:
    count = setting.batch * DETECTIONS
    masks = torch.randn(count, 138, 138, device=setting.device).to(setting.dtype)
    boxes = random_boxes(count).to(setting.device)
    inside = area(boxes) * masks[0].nbytes

    def once(operator: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        if not backward:
            return operator(masks, boxes)
        leaf = masks.detach().requires_grad_()
        operator(leaf, boxes).sum().backward()
        return leaf.grad

    passes = 2 if backward else 1
    return Comparison(
        lambda: once(ops.crop), lambda: once(reference.crop), Work(bytes=passes * (inside + masks.nbytes))
    )


def network(setting: Setting) -> Comparison:
    """From the network's input to its raw predictions. Plain is eager float32 in every precision."""
    plain = untrained_detector(build_model(setting.model)).to(setting.device)
    ours = plain.optimize(setting.precision)
    size = plain.image_size
    images = torch.randn(setting.batch, 3, size, size, device=setting.device)
    flops = setting.batch * cost_of(get_preset(setting.model)).flops
    return Comparison(
        lambda: _without_gradient(ours.model, images), lambda: _without_gradient(plain.model, images), Work(flops=flops)
    )


@torch.no_grad()
def _without_gradient(function: Callable[[Tensor], object], images: Tensor) -> object:
    return function(images)


def random_images(setting: Setting, height: int, width: int) -> list[Tensor]:
    """uint8 [height, width, 3] each."""
    shape = (setting.batch, height, width, 3)
    return list(torch.randint(0, 256, shape, dtype=torch.uint8, device=setting.device))


def likely_predictions(detector: Detector, setting: Setting) -> Predictions:
    """Raw outputs like those of a trained network: few anchors of all sizes are candidates, and 100 detections remain.

    Untrained weights predict something else: all anchors are candidates, and the best have the smallest boxes.
    """
    batch, count = setting.batch, detector.anchors.shape[0]
    classes = len(detector.class_names)
    logits = torch.randn(batch, count, 1 + classes)
    logits[:, :, 0] += 12
    start = 0
    for of_level in detector.level_counts:
        for image in range(batch):
            candidates = start + torch.randperm(of_level)[:CANDIDATES_PER_LEVEL]
            logits[image, candidates, 0] -= 12
            logits[image, candidates, 1 + torch.randint(classes, candidates.shape)] += 6
        start += of_level
    side, prototypes = 2 * math.ceil(detector.image_size / 8), detector.model.preset.num_prototypes
    predictions = (
        torch.randn(batch, count, 4),
        logits,
        torch.randn(batch, count, prototypes).tanh(),
        torch.randn(batch, side, side, prototypes).relu(),
    )
    return Predictions(*(values.to(setting.device, setting.dtype) for values in predictions))


@contextmanager
def operators(**others: Callable[..., Any]) -> Iterator[None]:
    """Makes every `Detector` call these operators, by name, in place of its own; nothing else changes."""
    own = {name: getattr(detector_module, name) for name in others}
    vars(detector_module).update(others)
    try:
        yield
    finally:
        vars(detector_module).update(own)


def with_plain_operators() -> AbstractContextManager[None]:
    """`operators` with those of `yolact.ops.reference`."""
    return operators(detect=reference.detect, assemble_masks=reference.assemble_masks, crop=reference.crop)


def rest(setting: Setting) -> Comparison:
    """All but the network and the assembly of masks: resizing, normalising, softmax, decoding, selection, NMS."""
    height, width = IMAGE_SIZES[0]
    detector = untrained_detector(build_model(setting.model)).to(setting.device)
    images, predictions = random_images(setting, height, width), likely_predictions(detector, setting)

    def ours() -> None:
        torch.cat([detector.preprocess(image) for image in images])
        with operators(assemble_masks=lambda prototypes, *_: prototypes.new_empty(0)):
            detector.postprocess(predictions, [(height, width)] * setting.batch)

    def plain() -> None:
        with with_plain_operators():
            ours()

    inputs = setting.batch * 3 * detector.image_size**2 * 4
    work = sum(image.nbytes for image in images) + inputs + predictions.logits.nbytes + predictions.prototypes.nbytes
    return Comparison(ours, plain, Work(bytes=work))


def postprocess(setting: Setting) -> Comparison:
    """From raw predictions to detections with masks."""
    height, width = IMAGE_SIZES[0]
    detector = untrained_detector(build_model(setting.model)).to(setting.device)
    predictions = likely_predictions(detector, setting)

    def ours() -> list[Detections]:
        return detector.postprocess(predictions, [(height, width)] * setting.batch)

    def plain() -> list[Detections]:
        with with_plain_operators():
            return ours()

    return Comparison(ours, plain, _work_after(predictions, ours()))


class _Distracted(nn.Module):
    """A network that does all its work and then returns given predictions."""

    def __init__(self, network: nn.Module, predictions: Predictions):
        super().__init__()
        self.network, self.predictions, self.rescoring = network, predictions, network.rescoring

    def forward(self, images: Tensor) -> Predictions:
        self.network(images)
        return self.predictions


def pixels_to_masks(cuda_graph: bool, setting: Setting) -> Comparison:
    """The whole detector, with `likely_predictions` in place of the network's output. Plain is eager float32."""
    height, width = IMAGE_SIZES[0]
    detector = untrained_detector(build_model(setting.model)).to(setting.device)
    faster = detector.optimize(setting.precision, cuda_graph)
    images, predictions = random_images(setting, height, width), likely_predictions(detector, setting)
    after = _work_after(predictions, detector.postprocess(predictions, [(height, width)] * setting.batch))
    flops = setting.batch * cost_of(get_preset(setting.model)).flops
    moved = after.bytes + sum(image.nbytes for image in images)
    faster.register_module("model", _Distracted(faster.model, predictions))
    in_float32 = Predictions(*(values.float() for values in predictions))
    detector.register_module("model", _Distracted(detector.model, in_float32))

    def plain() -> list[Detections]:
        with with_plain_operators():
            return detector.forward_batch(images)

    return Comparison(lambda: faster.forward_batch(images), plain, Work(flops, moved))


def _work_after(predictions: Predictions, detections: list[Detections]) -> Work:
    """The least work of `Detector.postprocess`."""
    masks = 0.0
    for of_image in detections:
        height, width = of_image.masks.shape[1:]
        sides = torch.tensor([width, height, width, height], device=of_image.boxes.device)
        masks += mask_bytes(of_image.boxes / sides, height, width)
    return Work(bytes=predictions.logits.nbytes + predictions.prototypes.nbytes + masks)


_SIZE = "640×480"
PARTS: dict[str, list[Part]] = {
    "network": [Part("network", network, whole=True)],
    "rest": [Part(f"neither network nor masks, {_SIZE}", rest)],
    "postprocess": [Part(f"after the network, with masks, {_SIZE}", postprocess)],
    "detector": [
        Part(f"from pixels to masks, {_SIZE}", partial(pixels_to_masks, False), whole=True),
        Part(f"the same as a CUDA graph, {_SIZE}", partial(pixels_to_masks, True), whole=True, only_on="cuda"),
    ],
    "assemble_masks": [
        Part(f"assemble_masks, {DETECTIONS} at {width}×{height}", partial(assemble_masks, height, width))
        for height, width in IMAGE_SIZES
    ],
    "fast_nms": [
        Part(f"fast_nms, 80 classes, {anchors} candidates", partial(fast_nms, anchors)) for anchors in (200, 19248)
    ],
    "detect": [
        Part("detect, 43 % of 19248 anchors candidates", partial(detect, 8)),
        Part("detect, all of 19248 anchors candidates", partial(detect, 0)),
    ],
    "crop": [
        Part("crop, 100 at 138×138", partial(crop, False)),
        Part("crop, forward and backward", partial(crop, True)),
    ],
}


def measure(part: Part, setting: Setting, rounds: int, floor: Floor, memory: PeakMemory | None) -> Iterator[Row]:
    """The row of a part in a setting.

    Args:
        part: what to measure.
        setting: the conditions.
        rounds: measurements of each side.
        floor, memory: of the setting's device; without `memory` no memory is measured.
    """
    comparison = part.build(setting)
    times = take_turns({"ours": comparison.ours, "plain": comparison.plain}, setting.device, rounds)
    added = {
        side: None if memory is None else memory.of(partial(_one_side, part.build, setting, side)) for side in times
    }
    yield Row(
        part.name, setting.device.type, setting.precision, setting.batch, rounds,
        times["ours"].median, times["ours"].p95, times["plain"].median, added["ours"], added["plain"],
        floor.milliseconds(comparison.work, setting.dtype), part.whole,
    )  # fmt: skip


def _one_side(build: Callable[[Setting], Comparison], setting: Setting, side: str) -> Call:
    return getattr(build(setting), side)
