"""The `yolact` command."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from yolact import demo as demonstration
from yolact.api import load
from yolact.benchmark.commands import benchmark
from yolact.config import PRESETS
from yolact.convert import convert as convert_checkpoint
from yolact.data import commands as data_commands
from yolact.evaluation.commands import evaluate
from yolact.export import export as export_model
from yolact.files import reported_output
from yolact.model_zoo import HEADINGS, row_of
from yolact.models.inference import Precision
from yolact.options import PresetOption
from yolact.prediction import predict
from yolact.training.commands import train
from yolact.weights.download import cached_file

app = typer.Typer(help="YOLACT: real-time instance segmentation.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(data_commands.app, name="data")
app.command()(predict)
app.command()(train)
app.command()(evaluate)
app.command()(benchmark)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


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
        with reported_output(), warnings.catch_warnings():
            # An image is read, or refused as too large. This warning names neither the file nor what to do.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            app()
    except BrokenPipeError:  # whoever reads the output has seen enough
        sys.exit(1)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        _errors.print(f"yolact: {_first_line(error)}", markup=False)
        sys.exit(1)
    except MemoryError:
        _errors.print("yolact: there is not enough memory", markup=False)
        sys.exit(1)


def _first_line(error: Exception) -> str:
    """An error's message without the advice and the backtraces that torch adds."""
    return str(error).partition("\n")[0]
