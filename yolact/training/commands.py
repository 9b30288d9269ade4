"""`yolact train`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from yolact.config import get_preset
from yolact.data.coco import CocoDataset
from yolact.data.images import Reading
from yolact.data.presets import get_data_preset
from yolact.data.transforms import Augmentation
from yolact.models.inference import Precision
from yolact.options import IgnoreExifOption, SixteenBitOption
from yolact.training.initial import IMAGENET
from yolact.training.settings import Optimizer, Schedule, TrainingSettings

_DEFAULTS = TrainingSettings()
_PATHS = ("train_annotations", "train_images", "val_annotations", "val_images")


@dataclass(frozen=True)
class DataFiles:
    """Where the annotations and images are. Both of validation may be missing."""

    train_annotations: Path
    train_images: Path
    val_annotations: Path | None = None
    val_images: Path | None = None


def read_data_file(path: Path) -> DataFiles:
    """The files that a small TOML or JSON file names, relative to its folder.

    The file holds train_annotations, train_images and, for validation, val_annotations and val_images. For a data set
    of `yolact.data.presets` it holds `name` and `folder`.

    Raises:
        ValueError: if it cannot be read or lacks something.
    """
    try:
        content = _parsed(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable TOML or JSON file ({error})") from None
    folder = path.parent
    if "name" in content:
        known = get_data_preset(content["name"]).under(folder / content.get("folder", "."))
        return DataFiles(known.train_annotations, known.train_images, known.val_annotations, known.val_images)
    if surplus := content.keys() - set(_PATHS):
        raise ValueError(f"{path}: {', '.join(sorted(surplus))} is unknown; the file may name {', '.join(_PATHS)}")
    return data_files(**{key: folder / content[key] for key in _PATHS if key in content})


def _parsed(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    try:
        import tomllib
    except ImportError:
        raise ValueError("TOML needs Python 3.11, use JSON") from None
    return tomllib.loads(path.read_text())


def data_files(
    train_annotations: Path | None = None,
    train_images: Path | None = None,
    val_annotations: Path | None = None,
    val_images: Path | None = None,
) -> DataFiles:
    """The files named one by one.

    Raises:
        ValueError: if those of training, or one of the two of validation, are missing.
    """
    if train_annotations is None or train_images is None:
        raise ValueError("name the data: --train-annotations and --train-images, or --data FILE that names them")
    if (val_annotations is None) != (val_images is None):
        raise ValueError("validation needs both --val-annotations and --val-images")
    return DataFiles(train_annotations, train_images, val_annotations, val_images)


def train(
    model: Annotated[str, typer.Option(help="A preset's name.")] = "yolact_resnet50",
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML or JSON file that names the data.")] = None,
    train_annotations: Annotated[Path | None, typer.Option(help="COCO-format JSON file.")] = None,
    train_images: Annotated[Path | None, typer.Option(help="Folder that the file names in it are relative to.")] = None,
    val_annotations: Annotated[Path | None, typer.Option(help="COCO-format JSON file for validation.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="Folder of the images for validation.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")] = Path("yolact-run"),
    weights: Annotated[
        str, typer.Option(help="Start from imagenet, scratch, a preset's published weights or a file.")
    ] = IMAGENET,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    epochs: Annotated[
        float | None, typer.Option(help="Length of the run in epochs.", show_default="the published length")
    ] = _DEFAULTS.epochs,
    iterations: Annotated[int | None, typer.Option(help="Length of the run in steps.")] = _DEFAULTS.iterations,
    batch_size: Annotated[int, typer.Option(help="Images of a step, over all processes.")] = _DEFAULTS.batch_size,
    accumulation: Annotated[
        int, typer.Option(help="Compute the images of a process in so many parts, one after the other.")
    ] = _DEFAULTS.accumulation,
    optimizer: Annotated[Optimizer, typer.Option(help="What takes the steps.")] = _DEFAULTS.optimizer,
    learning_rate: Annotated[
        float, typer.Option(help="For a batch of 8 images; it grows with the batch.")
    ] = _DEFAULTS.learning_rate,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate falls.")] = _DEFAULTS.schedule,
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.")] = _DEFAULTS.weight_decay,
    max_gradient_norm: Annotated[
        float | None, typer.Option(help="Scale longer gradients down to this.")
    ] = _DEFAULTS.max_gradient_norm,
    average_decay: Annotated[
        float | None, typer.Option(help="Evaluate and keep a moving average of the weights; 0.999, for example.")
    ] = _DEFAULTS.average_decay,
    precision: Annotated[
        Precision, typer.Option(help="Of most of the network's arithmetic; the weights stay fp32.")
    ] = _DEFAULTS.precision,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network.")] = _DEFAULTS.compile,
    freeze_batch_norm: Annotated[
        bool | None,
        typer.Option(help="Keep batch norms as they are.", show_default="if a device sees fewer than 6 images"),
    ] = _DEFAULTS.freeze_batch_norm,
    vertical_flip: Annotated[
        bool, typer.Option("--vertical-flip", help="Also turn images upside down.")
    ] = _DEFAULTS.augmentation.vertical_flip,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Also turn images by 90, 180 or 270 degrees.")
    ] = _DEFAULTS.augmentation.rotate,
    zoom_and_crop: Annotated[
        bool, typer.Option(help="Use SSD's zoom-out and crop; otherwise images stay whole.")
    ] = _DEFAULTS.augmentation.zoom_and_crop,
    workers: Annotated[int, typer.Option(help="Loader processes for each process.")] = _DEFAULTS.workers,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = _DEFAULTS.seed,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = _DEFAULTS.checkpoint_every,
    keep_checkpoints: Annotated[
        int, typer.Option(help="Keep so many of the newest checkpoints.")
    ] = _DEFAULTS.keep_checkpoints,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations.", show_default="an epoch, but at most 60 evaluations")
    ] = _DEFAULTS.evaluate_every,
    log_every: Annotated[int, typer.Option(help="Steps between records of the losses.")] = _DEFAULTS.log_every,
    ignore_exif: IgnoreExifOption = False,
    sixteen_bit: SixteenBitOption = "high",
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where there is a GPU.")] = False,
) -> None:
    """Train a model on COCO-format data. For several processes: torchrun (or accelerate launch) … -m yolact train …"""
    try:
        from yolact.training import loop
    except ImportError as error:
        raise ValueError(f"training needs more packages ({error}): pip install 'yolact[train]'") from None
    settings = TrainingSettings(
        batch_size=batch_size,
        iterations=iterations,
        epochs=epochs,
        accumulation=accumulation,
        optimizer=optimizer,
        learning_rate=learning_rate,
        schedule=schedule,
        weight_decay=weight_decay,
        max_gradient_norm=max_gradient_norm,
        average_decay=average_decay,
        freeze_batch_norm=freeze_batch_norm,
        precision=precision,
        compile=compiled,
        augmentation=Augmentation(vertical_flip, rotate, zoom_and_crop),
        workers=workers,
        seed=seed,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=keep_checkpoints,
        evaluate_every=evaluate_every,
    )
    preset = get_preset(model)
    named = read_data_file(data) if data else data_files(train_annotations, train_images, val_annotations, val_images)
    reading = Reading(ignore_exif, sixteen_bit)
    train_data = CocoDataset(named.train_annotations, named.train_images, reading=reading)
    val_data = None
    if named.val_annotations is not None and named.val_images is not None:
        val_data = CocoDataset(named.val_annotations, named.val_images, reading=reading)
    result = loop.train(preset, train_data, output, settings, val_data, weights, resume, cpu)
    if not result.finished:
        raise typer.Exit(130)
