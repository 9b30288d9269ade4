"""Times parts of the system against plain PyTorch, both in the same run.

    python scripts/benchmark.py                      # every part, on the CPU
    python scripts/benchmark.py assemble_masks memory --device cuda --rounds 50

Ours and the plain version take turns, so that what else the machine does hits both alike; the medians' ratio is what
counts, not the milliseconds.
"""

import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from yolact import ops
from yolact.config import get_preset
from yolact.data.targets import Targets
from yolact.models.anchors import make_anchors
from yolact.models.detector import Detector
from yolact.models.yolact import Predictions, Yolact, build_model
from yolact.ops import reference
from yolact.training.losses import count, loss_sums, normalised
from yolact.training.step import TrainingStep
from yolact.weights.untrained import untrained_detector

IMAGE_SIZES = [(480, 640), (550, 550), (720, 1280), (1080, 1920)]


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same result."""

    name: str
    ours: Callable[[], object]
    plain: Callable[[], object]


@dataclass(frozen=True)
class Result:
    """Medians of what was measured, in milliseconds or MiB."""

    part: str
    unit: str
    ours: float
    plain: float | None  # None where there is nothing to compare with
    rounds: int

    @property
    def ratio(self) -> float | None:
        return None if self.plain is None else self.plain / self.ours


def random_boxes(count: int) -> Tensor:
    """Relative boxes [count, 4] with sides log-uniform between 4 % and 60 % of the image's, inside the image."""
    sides = torch.empty(count, 2).uniform_(math.log(0.04), math.log(0.6)).exp()
    corner = torch.rand(count, 2) * (1 - sides)
    return torch.cat((corner, corner + sides), dim=1)


def mask_inputs(device: torch.device, count: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes, coefficients and boxes of one image at the size of the published presets."""
    generated = torch.randn(138, 138, 32).relu(), torch.randn(count, 32).tanh(), random_boxes(count)
    return tuple(value.to(device) for value in generated)  # type: ignore[return-value]


def assemble_masks_parts(device: torch.device) -> Iterator[Comparison]:
    for height, width in IMAGE_SIZES:
        arguments = (*mask_inputs(device), height, width)
        yield Comparison(
            f"assemble_masks, 100 at {width}×{height}",
            lambda arguments=arguments: ops.assemble_masks(*arguments),
            lambda arguments=arguments: reference.assemble_masks(*arguments),
        )


def fast_nms_parts(device: torch.device) -> Iterator[Comparison]:
    classes = 80
    for anchors in (200, 19248):
        boxes, scores = random_boxes(anchors)[None].to(device), torch.rand(1, anchors, classes, device=device)
        arguments = (boxes, scores, 0.5, 200, 0.05, 100)
        yield Comparison(
            f"fast_nms, {classes} classes, 200 a class of {anchors} candidates",
            lambda arguments=arguments: ops.fast_nms(*arguments),
            lambda arguments=arguments: reference.fast_nms(*arguments),
        )


def detect_parts(device: torch.device) -> Iterator[Comparison]:
    preset = get_preset("yolact_resnet50")
    anchors = make_anchors(preset.anchors, preset.image_size, preset.image_size).to(device)
    deltas = torch.randn(1, len(anchors), 4, device=device)
    for confidence in (8, 0):  # of the background, beside logits with a deviation of 2
        logits = torch.randn(1, len(anchors), 81, device=device) * 2
        logits[:, :, 0] += confidence
        count = int((logits.softmax(dim=2)[:, :, 1:].amax(dim=2) > 0.05).sum())
        arguments = (deltas, logits, anchors, *preset.variances, math.inf, False, 0.5, 200, 0.05, 100)
        yield Comparison(
            f"detect, {count} candidates of {len(anchors)} anchors, 80 classes",
            lambda arguments=arguments: ops.detect(*arguments),
            lambda arguments=arguments: reference.detect(*arguments),
        )


def crop_parts(device: torch.device) -> Iterator[Comparison]:
    masks, boxes = torch.randn(100, 138, 138, device=device), random_boxes(100).to(device)
    yield Comparison("crop, 100 at 138×138", lambda: ops.crop(masks, boxes), lambda: reference.crop(masks, boxes))

    def backward(crop: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        leaf = masks.detach().requires_grad_()
        crop(leaf, boxes).sum().backward()
        return leaf.grad

    yield Comparison("crop, forward and backward", lambda: backward(ops.crop), lambda: backward(reference.crop))


def plain_postprocess(detector: Detector, predictions: Predictions, height: int, width: int) -> tuple[Tensor, ...]:
    """`Detector.postprocess` of one image with the reference operators."""
    scores = predictions.logits.softmax(dim=-1)[:, :, 1:]
    boxes = reference.decode(predictions.box_deltas, detector.anchors, detector.variances)
    indices, labels, kept, counts = reference.fast_nms(
        boxes, scores, detector.iou_threshold, detector.top_k, detector.candidate_threshold, detector.max_detections
    )
    kept_boxes = boxes[0, indices[0, : counts[0]]]
    coefficients = predictions.coefficients[0, indices[0, : counts[0]]]
    masks = reference.assemble_masks(predictions.prototypes[0], coefficients, kept_boxes, height, width)
    return kept_boxes, kept, labels, masks


def detector_parts(device: torch.device) -> Iterator[Comparison]:
    """After the network, and from pixels to masks, of `yolact_resnet50` at 550 with 100 detections."""
    detector = untrained_detector(build_model("yolact_resnet50")).to(device)
    height, width = 480, 640
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device=device)
    with torch.no_grad():
        predictions = detector.model(detector.preprocess(image))
    yield Comparison(
        f"after the network, {width}×{height}",
        lambda: detector.postprocess(predictions, [(height, width)]),
        lambda: plain_postprocess(detector, predictions, height, width),
    )

    def plain() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return plain_postprocess(detector, detector.model(detector.preprocess(image)), height, width)

    yield Comparison(f"yolact_resnet50 from pixels to masks, {width}×{height}", lambda: detector(image), plain)


PARTS: dict[str, Callable[[torch.device], Iterator[Comparison]]] = {
    "assemble_masks": assemble_masks_parts,
    "fast_nms": fast_nms_parts,
    "detect": detect_parts,
    "crop": crop_parts,
    "detector": detector_parts,
}


def random_targets(batch: int, objects: int, size: int, num_classes: int) -> Targets:
    """Ellipses inscribed in `random_boxes`, as ground truth of `batch` images of `size` pixels."""
    boxes = random_boxes(batch * objects)
    position = (torch.arange(size) + 0.5) / size
    centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    x, y = ((position - centres[:, axis, None]) / radii[:, axis, None] for axis in (0, 1))
    masks = x[:, None, :] ** 2 + y[:, :, None] ** 2 <= 1
    return Targets(boxes.view(batch, objects, 4), torch.randint(num_classes, (batch, objects)), masks)


def training_results(device: torch.device, rounds: int) -> Iterator[Result]:
    """Where the time of a training step goes, at 550 pixels with 8 images of 20 objects each.

    The loss is timed with its own gradient, up to the network's outputs.
    """
    batch, objects = 8, 20
    gpu = device.type == "cuda"
    for name in ("yolact_resnet50", "yolact_base") if gpu else ("yolact_resnet50",):
        for precision in (torch.float32, torch.bfloat16) if gpu else (torch.float32,):
            step = TrainingStep(build_model(name)).to(device)
            preset = step.network.preset
            optimizer = torch.optim.SGD(step.parameters(), lr=1e-6, momentum=0.9)
            targets = random_targets(batch, objects, preset.image_size, preset.num_classes)
            targets = Targets(*(column.to(device) for column in targets))
            images = torch.randn(batch, 3, preset.image_size, preset.image_size, device=device)
            images = images.contiguous(memory_format=torch.channels_last)
            if gpu:
                torch.cuda.reset_peak_memory_stats(device)
            times: dict[str, list[float]] = {"forward": [], "loss": [], "backward": [], "optimizer": []}
            for number in range(rounds + 1):
                marks = [_now(device)]
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    *outputs, semantic = flat_predictions(step.network, images)
                marks.append(_now(device))
                leaves = [output.detach().requires_grad_() for output in (*outputs, semantic)]
                matches = step.match(targets)
                sums = loss_sums(
                    Predictions(*leaves[:-1]), leaves[-1], targets, matches, step.anchors, preset.loss, preset.variances
                )
                normalised(sums, count(matches), preset.loss).total().backward()
                marks.append(_now(device))
                torch.autograd.backward((*outputs, semantic), [leaf.grad for leaf in leaves])
                marks.append(_now(device))
                optimizer.step()
                optimizer.zero_grad()
                marks.append(_now(device))
                if number > 0:
                    for values, start, end in zip(times.values(), marks, marks[1:], strict=False):
                        values.append((end - start) * 1e3)
            medians = {stage: statistics.median(values) for stage, values in times.items()}
            total = sum(medians.values())
            title = f"training {name}, {str(precision).removeprefix('torch.')}, batch {batch}"
            for stage, value in medians.items():
                yield Result(f"{title}: {stage}, {value / total:.1%} of the step", "ms", value, None, rounds)
            yield Result(f"{title}: images", "1/s", batch / total * 1e3, None, rounds)
            if gpu:
                yield Result(f"{title}: memory", "MiB", torch.cuda.max_memory_allocated(device) / 2**20, None, rounds)


def flat_predictions(network: Yolact, images: Tensor) -> tuple[Tensor, ...]:
    """The four tensors of `Predictions` and the semantic logits."""
    predictions, semantic = network.forward_training(images)
    return (*predictions, semantic)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def write_polygon_data(folder: Path, images: int = 32, objects: int = 10) -> None:
    """JPEGs of 640×480 pixels with `objects` polygons each, and annotations.json in COCO's format."""
    from PIL import Image

    from yolact.data.shapes import render

    width, height = 640, 480
    entries = []
    for index in range(images):
        Image.fromarray(render(0, index, width)[0][:height]).save(folder / f"{index}.jpg", quality=90)
        for x1, y1, x2, y2 in random_boxes(objects).tolist():
            angles = torch.linspace(0, 2 * math.pi, 25)[:-1]
            reach = torch.empty(24).uniform_(0.6, 1)
            x = (x1 + x2 + (x2 - x1) * reach * angles.cos()) / 2 * width
            y = (y1 + y2 + (y2 - y1) * reach * angles.sin()) / 2 * height
            polygon = torch.stack((x, y), dim=1).flatten().tolist()
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": index,
                    "category_id": 1,
                    "segmentation": [polygon],
                    "bbox": [x.min().item(), y.min().item(), (x.max() - x.min()).item(), (y.max() - y.min()).item()],
                }
            )
    content = {
        "images": [
            {"id": index, "file_name": f"{index}.jpg", "width": width, "height": height} for index in range(images)
        ],
        "annotations": entries,
        "categories": [{"id": 1, "name": "polygon"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))


def loader_results(rounds: int) -> Iterator[Result]:
    """Images a second of one core: from a JPEG and its polygons to an augmented sample of 550 pixels.

    Plain is the chain of torchvision's transforms that ours draws the same samples as.
    """
    # Here, as pycocotools is more than a bare machine with a GPU has.
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from yolact.data.coco import CocoDataset
    from yolact.data.transforms import training_transform

    mean, size = get_preset("yolact_resnet50").pixel_mean, get_preset("yolact_resnet50").image_size
    chain = v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: mean, "others": 0}, side_range=(1.0, 4.0)),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((size, size), antialias=False),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_polygon_data(Path(folder))
        dataset = CocoDataset(Path(folder, "annotations.json"), folder)
        speeds: dict[str, list[float]] = {"ours": [], "plain": []}
        for number in range(rounds + 1):
            for side, transform in (("ours", training_transform(size, mean)), ("plain", chain)):
                dataset.transform = transform
                start = time.perf_counter()
                for index in range(len(dataset)):
                    _ = dataset[index]
                if number > 0:
                    speeds[side].append((time.perf_counter() - start) / len(dataset) * 1e3)
    torch.set_num_threads(threads)
    ours, plain = (statistics.median(values) for values in speeds.values())
    yield Result(f"loading an augmented image on one core, {1e3 / ours:.0f} a second", "ms", ours, plain, rounds)
    yield Result("training: data, a batch of 8 from one loader process", "ms", 8 * ours, 8 * plain, rounds)


def measured(comparison: Comparison, device: torch.device, rounds: int) -> Result:
    """Both sides in turns, after one warm-up each."""

    def seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(rounds + 1):
        for name, run in (("ours", comparison.ours), ("plain", comparison.plain)):
            elapsed = seconds(run)
            if number > 0:
                times[name].append(elapsed * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Result(comparison.name, "ms", medians["ours"], medians["plain"], rounds)


def memory_of_mask_assembly(device: torch.device) -> Result:
    """MiB that assembling 100 masks at 1920×1080 adds at its peak.

    On the CPU in a fresh process each, as address space: what was merely reserved counts too.
    """
    height, width = IMAGE_SIZES[-1]
    peaks = []
    for name in ("ours", "plain"):
        command = [sys.executable, __file__, "--peak-memory-of", name, "--device", str(device)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    output = 100 * height * width / 2**20
    return Result(f"peak memory of assemble_masks, whose output is {output:.1f} MiB", "MiB", *peaks, rounds=1)


def peak_memory(name: str, device: torch.device) -> float:
    """MiB that one assembly adds at its peak, in this process."""
    height, width = IMAGE_SIZES[-1]
    assemble = {"ours": ops.assemble_masks, "plain": reference.assemble_masks}[name]
    inputs = mask_inputs(device)
    assemble(*inputs, 8, 8)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        masks = assemble(*inputs, height, width)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20 if masks.numel() else 0.0
    before = _status_kib("VmSize")
    masks = assemble(*inputs, height, width)
    return (_status_kib("VmPeak") - before) / 2**10 if masks.numel() else 0.0


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


def machine(device: torch.device) -> str:
    """What the figures were measured on."""
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        processor = platform.processor() or platform.machine()
        for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
        name = f"{processor}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


ALONE = ("memory", "training", "loader")  # parts that are no series of comparisons


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Of: {', '.join((*PARTS, *ALONE))}. All by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each side.")] = 15,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file too.")] = None,
    peak_memory_of: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time parts of the system against plain PyTorch."""
    torch.manual_seed(0)
    if threads is not None:
        torch.set_num_threads(threads)
    where = torch.device(device)
    if peak_memory_of is not None:
        print(peak_memory(peak_memory_of, where))
        return
    known = (*PARTS, *ALONE)
    chosen = parts or [part for part in known if part != "loader" or where.type == "cpu"]
    if unknown := set(chosen) - set(known):
        raise typer.BadParameter(f"no part is called {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    results: list[Result] = []
    for part in chosen:
        if part == "memory":
            results.append(memory_of_mask_assembly(where))
        elif part == "training":
            results += training_results(where, rounds)
        elif part == "loader":
            results += loader_results(rounds)
        else:
            results += [measured(comparison, where, rounds) for comparison in PARTS[part](where)]
    table = Table("part", "unit", "ours", "plain", "ratio", box=None)
    for result in results:
        compared = (result.plain, result.ratio) if result.plain is not None else ()
        table.add_row(result.part, result.unit, f"{result.ours:.2f}", *(f"{value:.2f}" for value in compared))
    print(machine(where))
    Console(width=120).print(table)
    if json_file is not None:
        json_file.write_text(
            json.dumps({"machine": machine(where), "results": [asdict(result) for result in results]}, indent=1)
        )


if __name__ == "__main__":
    typer.run(main)
