"""`yolact evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import measure_speed, open_segmenter, save_worst, segment_all
from yolact.evaluation.scores import score
from yolact.files import written_whole
from yolact.progress import progress_bar


def evaluate(
    model: Annotated[str, typer.Option(help="A preset's name, a checkpoint file or an exported model.")],
    annotations: Annotated[Path, typer.Option(help="COCO-format JSON file; without annotations: only results.")],
    images: Annotated[Path, typer.Option(help="Folder that its file names are relative to.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    preset: Annotated[
        str | None, typer.Option(help="Preset of a checkpoint file, where the file does not tell it.")
    ] = None,
    runtime: Annotated[bool, typer.Option("--runtime", help="Run an exported model in the C++ runtime.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate only the first images.")] = None,
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="Write COCO results here.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write AP by class here, as Markdown.")] = None,
    worst: Annotated[int, typer.Option("--save-worst", min=0, help="Draw that many of the worst images.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for these pictures.")] = Path("worst"),
    speed: Annotated[bool, typer.Option("--speed", help="Measure images a second too, one at a time.")] = False,
) -> None:
    """Evaluate a model on COCO-format annotations: box and mask AP, by class and by size."""
    segmenter = open_segmenter(model, device, preset, runtime)
    evaluation_set = EvaluationSet.read(annotations, images).part(slice(limit))
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("Segmenting", total=len(evaluation_set.image_ids))

        def seen() -> bool:
            progress.advance(task)
            return True

        entries = segment_all(segmenter, evaluation_set, seen)
    if results is not None:
        entries.write(results)
        print(f"{results}: {len(entries)} detections")
    if evaluation_set.truth is None:
        print(f"{annotations} holds no annotations, so there is no AP; the results file is what a test server takes.")
    else:
        scores = score(evaluation_set, entries)
        print(f"boxes\n{scores.box.table()}\nmasks\n{scores.mask.table()}\n\n{scores.markdown()}", end="")
        if report is not None:
            with written_whole(report) as temporary:
                temporary.write_text(scores.markdown())
        if worst:
            for picture in save_worst(evaluation_set, entries, scores.quality, worst, output):
                print(picture)
    if speed:
        measured = measure_speed(segmenter, evaluation_set)
        alone = "" if measured.network is None else f"network alone {measured.network:.1f} images/s, "
        print(f"{alone}end to end {measured.end_to_end:.1f} images/s")
