"""`yolact benchmark`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from yolact.api import usable_device
from yolact.benchmark.measure import PeakMemory
from yolact.benchmark.model import Opener, benchmark_model
from yolact.benchmark.report import STANDARD_OUTPUT, Row, json_target, machine, print_report, write_json
from yolact.data.images import read_image
from yolact.demo import PHOTO
from yolact.export import is_exported
from yolact.options import MODEL_HELP, DeviceOption, PrecisionOption, PresetOption
from yolact.progress import progress_bar
from yolact.segmenters import open_segmenter


def benchmark(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    image: Annotated[Path, typer.Option(help="The picture to segment.", show_default="a bundled photograph")] = PHOTO,
    device: DeviceOption = "cpu",
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images of a call; repeat the option to measure several sizes.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each part.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's")] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory too.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results to this file too; - for stdout.")
    ] = None,
    preset: PresetOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Measure a model from pixels to masks: in Python, and an exported model in the C++ runtime too."""
    where = usable_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    pixels = read_image(image)
    openers: dict[str, Opener] = {"Python": partial(open_segmenter, model, device, preset, precision)}
    segmenters = {"Python": openers["Python"]()}
    missing_runtime = ""
    if is_exported(model):
        open_runtime = partial(open_segmenter, model, device, preset, precision, runtime=True)
        try:
            segmenters["C++"], openers["C++"] = open_runtime(), open_runtime
        except ImportError as error:
            missing_runtime = str(error)
    this_machine = machine(where)
    rows: list[Row] = []
    with json_target(json_file) as target, PeakMemory(where) as peak, progress_bar() as progress:
        for images in progress.track(batch or [1], description="Measuring"):
            rows += benchmark_model(openers, segmenters, pixels, images, rounds, peak if memory else None)
        write_json(target, this_machine, rows)
    to_stderr = json_file == STANDARD_OUTPUT
    height, width = pixels.shape[:2]
    detections = len(segmenters["Python"](pixels).labels)
    typer.echo(f"{model}: {image}, {width}×{height}, {detections} detections", err=to_stderr)
    print_report(this_machine, rows, to_stderr)
    if missing_runtime:
        typer.echo(f"The C++ runtime is left out: {missing_runtime}.", err=to_stderr)
