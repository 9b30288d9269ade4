"""The time of a training step, stage by stage, and of its data."""

import importlib.util
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from yolact.benchmark.measure import Times, now, take_turns
from yolact.benchmark.parts import Setting, random_boxes
from yolact.benchmark.report import Row
from yolact.config import Preset, get_preset
from yolact.data.packed import pack
from yolact.data.targets import Targets
from yolact.files import temporary_space
from yolact.models.yolact import Predictions, build_model
from yolact.training.losses import count, loss_sums, normalised
from yolact.training.step import TrainingStep

if TYPE_CHECKING:
    from yolact.data.batch import Tolerant
    from yolact.data.coco import CocoDataset

OBJECTS = 20  # an image
LOADED = 32  # images of a call of `loader`


def random_targets(batch: int, objects: int, size: int, num_classes: int) -> Targets:
    """Ellipses inscribed in `random_boxes`, as ground truth of `batch` images of `size` pixels."""
    boxes = random_boxes(batch * objects)
    position = (torch.arange(size) + 0.5) / size
    centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    x, y = ((position - centres[:, axis, None]) / radii[:, axis, None] for axis in (0, 1))
    masks = x[:, None, :] ** 2 + y[:, :, None] ** 2 <= 1
    return Targets(boxes.view(batch, objects, 4), torch.randint(num_classes, (batch, objects)), pack(masks))


def training(setting: Setting, rounds: int) -> Iterator[Row]:
    """The stages of a step at the preset's image size, with 20 objects in each image, and the whole step.

    The data are those of `loader`: a batch from one process on one core, which loads it beside the step. Without
    pycocotools there is no such row. The loss is timed with its own gradient, up to the network's outputs. Below
    float32, torch's autocast chooses what is computed in that precision. The first step does not count.
    """
    device, batch, gpu = setting.device, setting.batch, setting.device.type == "cuda"
    step = TrainingStep(build_model(setting.model)).to(device)
    preset = step.network.preset
    optimizer = torch.optim.SGD(step.parameters(), lr=1e-6, momentum=0.9)
    targets = random_targets(batch, OBJECTS, preset.image_size, preset.num_classes)
    targets = Targets(*(column.to(device) for column in targets))
    images = torch.randn(batch, 3, preset.image_size, preset.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {"forward": [], "loss": [], "backward": [], "optimizer": [], "step": []}
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for number in range(rounds + 1):
        marks = [now(device)]
        with torch.autocast(device.type, setting.dtype, enabled=setting.dtype != torch.float32):
            predictions, semantic = step.network.forward_training(images)
        outputs = (*predictions, semantic)
        marks.append(now(device))
        leaves = [output.detach().requires_grad_() for output in outputs]
        matches = step.match(targets)
        sums = loss_sums(
            Predictions(*leaves[:-1]), leaves[-1], targets, matches, step.anchors, preset.loss, preset.variances
        )
        normalised(sums, count(matches), preset.loss).total().backward()
        marks.append(now(device))
        torch.autograd.backward(outputs, [leaf.grad for leaf in leaves])
        marks.append(now(device))
        optimizer.step()
        optimizer.zero_grad()
        marks.append(now(device))
        if number > 0:
            seconds = [end - start for start, end in pairwise(marks)]
            for values, spent in zip(times.values(), (*seconds, marks[-1] - marks[0]), strict=True):
                values.append(spent * 1e3)
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if gpu else None
    if importlib.util.find_spec("pycocotools"):  # a bare machine with a GPU may lack it
        with polygon_data(preset, batch) as (ours, _):
            calls = {"data, beside the step": lambda: _read_all(ours)}
            loaded = take_turns(calls, torch.device("cpu"), rounds, warm_up=1)
    else:
        loaded = {}
    medians = {stage: Times.of(values) for stage, values in times.items()}
    for stage, figures in (loaded | medians).items():
        whole = stage == "step"
        share = "" if whole else f", {figures.median / medians['step'].median:.1%} of the step"
        yield Row(
            f"training {setting.model}: {stage}{share}", "cpu" if stage in loaded else device.type,
            "" if stage in loaded else setting.precision, batch, rounds,
            figures.median, figures.p95, memory=memory if whole else None, whole=whole,
        )  # fmt: skip


def write_polygon_data(folder: Path, images: int, objects: int = 10) -> None:
    """JPEGs of 640×480 pixels with `objects` polygons each, and annotations.json in COCO's format."""
    from PIL import Image

    from yolact.data.shapes import render

    width, height = 640, 480
    entries: list[dict[str, Any]] = []
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


@contextmanager
def polygon_data(preset: Preset, images: int) -> Iterator[tuple["Tolerant", "CocoDataset"]]:
    """The data of `write_polygon_data`, with our augmentation and with torchvision's chain that draws the same samples.

    Torch has one thread inside the block.
    """
    # Imported here because a bare machine with a GPU may lack pycocotools.
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from yolact.data.batch import Tolerant
    from yolact.data.coco import CocoDataset
    from yolact.data.transforms import training_transform

    mean, size = preset.pixel_mean, preset.image_size
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
    try:
        with temporary_space():
            temporary = tempfile.TemporaryDirectory()
        with temporary as name:
            folder = Path(name)
            with temporary_space():
                write_polygon_data(folder, images)
            file = folder / "annotations.json"
            ours = Tolerant(CocoDataset(file, folder), training_transform(size, mean))
            yield ours, CocoDataset(file, folder, chain)
    finally:
        torch.set_num_threads(threads)


def _read_all(dataset: "Tolerant | CocoDataset") -> list[Any]:
    return [dataset[index] for index in range(len(dataset))]


def loader(setting: Setting, rounds: int) -> Iterator[Row]:
    """One core reads JPEGs with their polygons and augments them to samples of the preset's image size.

    A call loads 32 images. Plain is torchvision's chain.
    """
    with polygon_data(get_preset(setting.model), LOADED) as (ours, plain):
        calls = {"ours": lambda: _read_all(ours), "plain": lambda: _read_all(plain)}
        times = take_turns(calls, torch.device("cpu"), rounds, warm_up=1)
    yield Row(
        "loading augmented images on one core", "cpu", "", LOADED, rounds,
        times["ours"].median, times["ours"].p95, times["plain"].median, whole=True,
    )  # fmt: skip
