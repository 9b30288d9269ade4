"""`yolact train`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from yolact.config import get_preset
from yolact.data.coco import CocoDataset
from yolact.data.presets import get_data_preset
from yolact.data.transforms import training_transform
from yolact.training.initial import IMAGENET
from yolact.training.schedule import TrainingConfig

_PATHS = ("train_annotations", "train_images", "val_annotations", "val_images")


@dataclass(frozen=True)
class DataFiles:
    """Where the annotations and images to train on lie; the two of validation may be missing, together."""

    train_annotations: Path
    train_images: Path
    val_annotations: Path | None = None
    val_images: Path | None = None


def read_data_file(path: Path) -> DataFiles:
    """The files that a small TOML or JSON file names, relative to its folder.

    It holds train_annotations, train_images and, if there is validation, val_annotations and val_images; or `name`
    and `folder`, for a data set of `yolact.data.presets`.

    Raises:
        ValueError: if it cannot be read or lacks something.
    """
    try:
        content = _parsed(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: this is no readable TOML or JSON file ({error})") from None
    folder = path.parent
    if "name" in content:
        known = get_data_preset(content["name"]).under(folder / content.get("folder", "."))
        return DataFiles(known.train_annotations, known.train_images, known.val_annotations, known.val_images)
    if surplus := content.keys() - set(_PATHS):
        raise ValueError(f"{path}: {', '.join(sorted(surplus))} is unknown; it may name {', '.join(_PATHS)}")
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
    train_images: Annotated[Path | None, typer.Option(help="Folder that its file names are relative to.")] = None,
    val_annotations: Annotated[Path | None, typer.Option(help="The same for validation, if there is any.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="Its folder.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")] = Path("yolact-run"),
    weights: Annotated[
        str, typer.Option(help="Start from imagenet, scratch, a preset's published weights or a file.")
    ] = IMAGENET,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    epochs: Annotated[
        float | None, typer.Option(help="Length of the run.", show_default="the published, for 8 images a batch")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="The same, in steps.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step, over all processes.")] = 8,
    accumulation: Annotated[int, typer.Option(min=1, help="Parts of a process's share, one after the other.")] = 1,
    optimizer: Annotated[Literal["sgd", "adamw"], typer.Option()] = "sgd",
    learning_rate: Annotated[float, typer.Option(help="For 8 images a batch.")] = 1e-3,
    schedule: Annotated[Literal["steps", "cosine"], typer.Option()] = "steps",
    weight_decay: Annotated[float, typer.Option()] = 5e-4,
    max_gradient_norm: Annotated[float | None, typer.Option(help="Scale longer gradients down to this.")] = None,
    average_decay: Annotated[
        float | None, typer.Option(help="Keep a moving average of the weights, e.g. 0.999, and evaluate that.")
    ] = None,
    precision: Annotated[Literal["no", "bf16", "fp16"], typer.Option(help="Mixed precision.")] = "no",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network.")] = False,
    freeze_batch_norm: Annotated[
        bool | None, typer.Option(help="Keep batch norms as they are.", show_default="below 6 images a device")
    ] = None,
    vertical_flip: Annotated[bool, typer.Option("--vertical-flip", help="Also turn images upside down.")] = False,
    rotate: Annotated[bool, typer.Option("--rotate", help="Also turn images by quarters.")] = False,
    zoom_and_crop: Annotated[bool, typer.Option(help="SSD's zoom-out and crop; without, images stay whole.")] = True,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes of each process.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Iterations.")] = 1000,
    keep_checkpoints: Annotated[int, typer.Option(min=1, help="How many of the last ones stay.")] = 3,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Iterations.", show_default="an epoch, at most 60 times in all")
    ] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Iterations.")] = 10,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where there is a GPU.")] = False,
) -> None:
    """Train a model on COCO-format data. Many processes: accelerate launch, or torchrun, -m yolact train …"""
    try:
        from yolact.training.trainer import Trainer
    except ImportError as error:
        raise ValueError(f"training needs more packages ({error}): pip install 'yolact[train]'") from None
    preset = get_preset(model)
    named = read_data_file(data) if data else data_files(train_annotations, train_images, val_annotations, val_images)
    transform = training_transform(preset.image_size, preset.pixel_mean, vertical_flip, rotate, zoom_and_crop)
    train_data = CocoDataset(named.train_annotations, named.train_images, transform)
    val_data = None
    if named.val_annotations is not None and named.val_images is not None:
        val_data = CocoDataset(named.val_annotations, named.val_images)
    config = TrainingConfig(
        batch_size=batch_size,
        iterations=iterations,
        epochs=epochs,
        accumulation=accumulation,
        optimizer=optimizer,
        learning_rate=learning_rate,
        schedule=schedule,
        weight_decay=weight_decay,
        max_gradient_norm=max_gradient_norm,
        freeze_batch_norm=freeze_batch_norm,
        precision=precision,
        compile=compiled,
        average_decay=average_decay,
        workers=workers,
        seed=seed,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=keep_checkpoints,
        evaluate_every=evaluate_every,
    )
    trainer = Trainer(preset, train_data, output, config, val_data, weights, resume, cpu)
    result = trainer.run()
    trainer.accelerator.end_training()  # a process that leaves its group to its end may end with an abort
    if not result.finished:
        raise typer.Exit(130)
