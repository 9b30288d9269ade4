"""The `yolact` command."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table
from torchvision.io import write_png

from yolact import demo as demonstration
from yolact.api import load, usable_device
from yolact.benchmark.commands import benchmark
from yolact.config import PRESETS
from yolact.convert import convert as convert_checkpoint
from yolact.data import commands as data_commands
from yolact.data.images import IMAGE_SUFFIXES, ImageError, read_image
from yolact.evaluation.coco import coco_results
from yolact.evaluation.commands import evaluate
from yolact.evaluation.evaluate import without_canvas
from yolact.evaluation.results import Results
from yolact.export import export as export_model
from yolact.export import is_exported, load_exported
from yolact.files import written_whole
from yolact.model_zoo import HEADINGS, row_of
from yolact.models.detector import Detector
from yolact.progress import progress_bar
from yolact.training.commands import train
from yolact.visualize import draw
from yolact.weights.download import cached_file

DEFAULT_SCORE_THRESHOLD = 0.15  # what a person wants to see; yolact-segment has the same

app = typer.Typer(help="YOLACT: real-time instance segmentation.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(data_commands.app, name="data")
app.command()(train)
app.command()(evaluate)
app.command()(benchmark)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)

PresetOption = Annotated[
    str | None, typer.Option(help="Preset of a checkpoint file, where the file does not tell it.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]


@app.command()
def predict(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Images, and folders of images.")],
    model: Annotated[str, typer.Option(help="A preset's name, a checkpoint file or an exported model.")],
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Keep detections with a higher score.")
    ] = DEFAULT_SCORE_THRESHOLD,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Keep that many of an image at most.", show_default="the preset's")
    ] = None,
    device: DeviceOption = "cpu",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")] = Path("yolact-output"),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write COCO results to this file too.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw pictures; without them --json takes less time.")
    ] = True,
    preset: PresetOption = None,
) -> None:
    """Segment images: draw what is found, and optionally write it as JSON."""
    if not pictures and json_file is None:
        raise typer.BadParameter("--no-pictures leaves nothing to write without --json FILE")
    detector = _open_model(model, device, preset)
    detector.score_threshold = score_threshold
    if max_detections is not None:
        detector.max_detections = max_detections
    images = _images_in(sources)
    if pictures:
        output.mkdir(parents=True, exist_ok=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
    targets = _picture_paths(images, output) if pictures else [None] * len(images)
    results = Results()
    failures: list[str] = []
    with progress_bar(_errors) as progress:
        for number, (path, picture) in enumerate(
            progress.track(list(zip(images, targets, strict=True)), description="Segmenting"), start=1
        ):
            try:
                image = read_image(path)
                detections = without_canvas(detector, image) if picture is None else detector(image)
            except (ImageError, RuntimeError, torch.jit.Error) as error:
                failures.append(str(error) if isinstance(error, ImageError) else f"{path}: {_reason(error)}")
                _errors.print(f"yolact: {failures[-1]}", markup=False)
                continue
            if picture is not None:
                with written_whole(picture) as temporary:
                    write_png(draw(image, detections, detector.class_names), str(temporary))
            print(f"{path}: {len(detections.labels)} detections" + (f", {picture}" if picture is not None else ""))
            if json_file is not None:
                names = (detector.class_names[label] for label in detections.labels.tolist())
                entries = zip(names, coco_results(detections, image_id=number), strict=True)
                results.add([{"image": str(path), "category_name": name, **entry} for name, entry in entries])
    if json_file is not None:
        results.write(json_file)
    if failures:
        _errors.print(f"yolact: {len(failures)} of {len(images)} images failed, the others are done", markup=False)
        raise typer.Exit(1)


@app.command()
def export(
    name_or_path: Annotated[str, typer.Argument(help="A preset's name or a checkpoint file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write.")],
    preset: PresetOption = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Of the network's weights and activations.")
    ] = "fp32",
) -> None:
    """Write a model as one file that LibTorch runs without Python."""
    export_model(load(name_or_path, preset=preset), output, precision)
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint file or a preset's name.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[Literal["original", "yolact"], typer.Option(help="Its layout: that of dbolya/yolact, or ours.")],
    preset: PresetOption = None,
) -> None:
    """Write a checkpoint in another layout, for the original's tools or for ours."""
    converted = convert_checkpoint(source, output, to, preset)
    layout = "our layout" if to == "yolact" else "the original's layout"
    print(f"{output}: {converted.name} in {layout}")


@app.command()
def models() -> None:
    """List the presets: what they reach, what they cost, and whose weights are on this machine."""
    table = Table(*HEADINGS, "weights", box=None, pad_edge=False)
    for preset in PRESETS.values():
        if preset.publication.bundled:
            weights = "bundled"
        elif not preset.publication.address:
            weights = "none"
        else:
            weights = "cached" if cached_file(preset) is not None else "published"
        table.add_row(*row_of(preset), weights)
    console = Console()
    # Rather a long line than broken words.
    wanted = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, wanted)
    console.print(table)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures and the model.")] = Path(
        "demo"
    ),
    program: Annotated[
        Path | None, typer.Option(help="The C++ program.", show_default="yolact-segment on the PATH")
    ] = None,
) -> None:
    """Segment a rendered scene, and a photograph where COCO weights are cached, in Python and in C++; compare."""
    if not demonstration.run(output, program):
        raise typer.Exit(1)


def main() -> None:
    """Runs the command: exit code 1 with one line on an error, 2 on wrong usage."""
    try:
        app()
    except (ValueError, OSError, RuntimeError, ImportError, torch.jit.Error) as error:
        _errors.print(f"yolact: {_reason(error)}", markup=False)
        sys.exit(1)


def _reason(error: Exception) -> str:
    """An error's message; of TorchScript's many lines, the one that says what happened."""
    text = str(error)
    for marker in ("RuntimeError: ", "ValueError: "):
        text = text.rpartition(marker)[2]
    return text.partition("\n")[0]


def _open_model(name_or_path: str, device: str, preset: str | None) -> Detector | torch.jit.ScriptModule:
    if is_exported(name_or_path):
        return load_exported(name_or_path, usable_device(device))
    return load(name_or_path, device, preset).optimize()


def _images_in(sources: Sequence[Path]) -> list[Path]:
    """The files named, and those in the folders named, in order.

    Raises:
        ValueError: if a folder holds no image.
    """
    images: list[Path] = []
    for source in sources:
        if not source.is_dir():
            images.append(source)
            continue
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"{source}: no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
        images.extend(found)
    return images


def _picture_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """Where each image's picture goes: its name with .png, numbered where two share a name.

    Raises:
        ValueError: if a picture would overwrite an image.
    """
    taken: set[str] = set()
    pictures = []
    inputs = {image.resolve() for image in images}
    for image in images:
        name, number = image.stem, 0
        while name in taken:
            number += 1
            name = f"{image.stem}_{number}"
        taken.add(name)
        pictures.append(folder / f"{name}.png")
        if pictures[-1].resolve() in inputs:
            raise ValueError(f"{pictures[-1]} is an input: give another output folder with -o")
    return pictures
