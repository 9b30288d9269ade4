"""The `yolact` command."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from yolact import demo as demonstration
from yolact.api import load
from yolact.benchmark.commands import benchmark
from yolact.config import PRESETS
from yolact.convert import convert as convert_checkpoint
from yolact.data import commands as data_commands
from yolact.data.images import IMAGE_SUFFIXES, ImageError, read_image
from yolact.evaluation.coco import coco_results
from yolact.evaluation.commands import evaluate
from yolact.evaluation.results import Results
from yolact.export import export as export_model
from yolact.files import make_folder, reported_output, write_picture
from yolact.model_zoo import HEADINGS, row_of
from yolact.models.inference import Precision
from yolact.options import MODEL_HELP, DeviceOption, PrecisionOption, PresetOption
from yolact.progress import progress_bar
from yolact.segmenters import open_segmenter
from yolact.training.commands import train
from yolact.visualize import draw
from yolact.weights.download import cached_file

DEFAULT_SCORE_THRESHOLD = 0.15  # hides what a person would call wrong; yolact-segment has the same default

app = typer.Typer(help="YOLACT: real-time instance segmentation.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(data_commands.app, name="data")
app.command()(train)
app.command()(evaluate)
app.command()(benchmark)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command()
def predict(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Images, and folders of images.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Keep detections with a higher score.")
    ] = DEFAULT_SCORE_THRESHOLD,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Keep at most that many of each image.", show_default="the model's")
    ] = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")] = Path("yolact-output"),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write COCO results to this file too.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw pictures; without them --json takes less time.")
    ] = True,
    preset: PresetOption = None,
) -> None:
    """Find the objects in images: draw them, write them as JSON, or both."""
    if not pictures and json_file is None:
        raise typer.BadParameter("--no-pictures leaves nothing to write without --json FILE")
    segmenter = open_segmenter(model, device, preset, precision)
    segmenter.score_threshold = score_threshold
    if max_detections is not None:
        segmenter.max_detections = max_detections
    images = _images_in(sources)
    targets: list[Path] = _picture_paths(images, output) if pictures else []
    _check_distinct([*images, Path(model)], targets if json_file is None else [*targets, json_file])
    if pictures:
        make_folder(output)
    if json_file is not None:
        make_folder(json_file.parent)
    results = Results()
    failures: list[str] = []
    with progress_bar(_errors) as progress:
        for index, path in enumerate(progress.track(images, description="Segmenting")):
            try:
                image = read_image(path)
                detections = segmenter.forward_encoded([image])[0]
                if pictures:
                    drawn = draw(image, detections, segmenter.class_names)
            except (ValueError, RuntimeError) as error:
                failures.append(str(error) if isinstance(error, ImageError) else f"{path}: {_first_line(error)}")
                _errors.print(f"yolact: {failures[-1]}", markup=False)
                continue
            line = f"{path}: {len(detections.labels)} detections"
            if pictures:
                write_picture(targets[index], drawn)
                line += f", {targets[index]}"
            print(line)
            if json_file is not None:
                names = (segmenter.class_names[label] for label in detections.labels.tolist())
                entries = zip(names, coco_results(detections, image_id=index + 1), strict=True)
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
    precision: Annotated[Precision, typer.Option(help="Of the network's weights and activations.")] = "fp32",
) -> None:
    """Write a model as one file that LibTorch runs without Python."""
    export_model(load(name_or_path, preset=preset), output, precision)
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint file or a preset's name.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[Literal["original", "yolact"], typer.Option(help="Layout of OUT: that of dbolya/yolact, or ours.")],
    preset: PresetOption = None,
) -> None:
    """Write a checkpoint in another layout, for the original's tools or for ours."""
    converted = convert_checkpoint(source, output, to, preset)
    layout = "our layout" if to == "yolact" else "the original's layout"
    print(f"{output}: {converted.name} in {layout}")


@app.command()
def models() -> None:
    """List the presets with their accuracy, what they cost, and which weights are on this machine."""
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
    # A long line is easier to read than broken words.
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
    """Runs the command. The exit code is 1, with one line, on an error, and 2 on wrong usage."""
    try:
        with reported_output():
            app()
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        _errors.print(f"yolact: {_first_line(error)}", markup=False)
        sys.exit(1)


def _first_line(error: Exception) -> str:
    """An error's message without the advice and the backtraces that torch adds."""
    return str(error).partition("\n")[0]


def _images_in(sources: Sequence[Path]) -> list[Path]:
    """The files among `sources` and the images in the folders among them, in order.

    Raises:
        ValueError: if a folder holds no image.
    """
    images: list[Path] = []
    for source in sources:
        if not source.is_dir():
            images.append(source)
            continue
        inside = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            raise ValueError(f"{source}: there is no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
        images.extend(inside)
    return images


def _picture_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """The picture of each image: its name with .png in `folder`, with a number where two share a name."""
    taken: set[str] = set()
    pictures = []
    for image in images:
        name, number = image.stem, 0
        while name in taken:
            number += 1
            name = f"{image.stem}_{number}"
        taken.add(name)
        pictures.append(folder / f"{name}.png")
    return pictures


def _check_distinct(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raises ValueError if one of `outputs` is one of `inputs`."""
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in taken:
            raise ValueError(f"{path} is an input: choose another place for the output")
