"""`yolact benchmark`."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from yolact.api import usable_device
from yolact.benchmark.measure import PeakMemory
from yolact.benchmark.model import benchmark_model, no_runtime
from yolact.benchmark.report import STANDARD_OUTPUT, Row, json_target, machine, print_report, write_json
from yolact.data.images import read_image
from yolact.demo import PHOTO
from yolact.evaluation.evaluate import open_segmenter
from yolact.models.detector import Detector
from yolact.progress import progress_bar


def benchmark(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An exported model, a checkpoint file or a preset's name.")
    ],
    image: Annotated[Path, typer.Option(help="The picture to segment.", show_default="a bundled photograph")] = PHOTO,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images of a call; give it again for more.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each part.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's")] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory too.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results to this file too; - for stdout.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset of a checkpoint file, where the file does not tell it.")
    ] = None,
) -> None:
    """Measure a model from pixels to masks: in Python, an exported one in the C++ runtime too."""
    where = usable_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    pixels = read_image(image)
    segmenter = open_segmenter(model, device, preset)
    exported, lacking = not isinstance(segmenter, Detector), no_runtime()
    found = machine(where)
    rows: list[Row] = []
    with json_target(json_file) as target, PeakMemory(where) as peak, progress_bar() as progress:
        for images in progress.track(batch or [1], description="Measuring"):
            rows += benchmark_model(
                model, segmenter, pixels, where, images, rounds, peak if memory else None, preset,
                runtime=exported and not lacking,
            )  # fmt: skip
        write_json(target, found, rows)
    to_stderr = json_file == STANDARD_OUTPUT
    height, width = pixels.shape[:2]
    detections = len(segmenter(pixels).labels)
    typer.echo(f"{model}: {image}, {width}×{height}, {detections} detections", err=to_stderr)
    print_report(found, rows, to_stderr)
    if exported and lacking:
        typer.echo(f"The C++ runtime is left out: {lacking}.", err=to_stderr)
