"""`yolact evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yolact.data.images import Reading
from yolact.data.problems import counted
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import measure_speed, save_worst, segment_all
from yolact.evaluation.scores import score
from yolact.files import check_writable, make_folder, write_text
from yolact.options import MODEL_HELP, DeviceOption, IgnoreExifOption, PrecisionOption, PresetOption, SixteenBitOption
from yolact.precision import slow_inference
from yolact.progress import progress_bar
from yolact.segmenters import open_segmenter


def evaluate(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    annotations: Annotated[Path, typer.Option(help="COCO-format JSON file; if it has no annotations, there is no AP.")],
    images: Annotated[Path, typer.Option(help="Folder of the images; its file names are relative to it.")],
    device: DeviceOption = "cpu",
    preset: PresetOption = None,
    precision: PrecisionOption = None,
    runtime: Annotated[bool, typer.Option("--runtime", help="Run an exported model in the C++ runtime.")] = False,
    ignore_exif: IgnoreExifOption = False,
    sixteen_bit: SixteenBitOption = "high",
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate only the first images.")] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write COCO results, boxes and masks, to this file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the AP of each class to this file, as Markdown.")
    ] = None,
    worst: Annotated[int, typer.Option("--save-worst", min=0, help="Draw that many of the worst images.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for these pictures.")] = Path("worst"),
    speed: Annotated[bool, typer.Option("--speed", help="Measure images a second too, with one image a call.")] = False,
) -> None:
    """Evaluate a model on COCO-format annotations: box and mask AP, by class and by size."""
    for file in (results, report):
        if file is not None:
            check_writable(file)
    if worst:
        make_folder(output)
    segmenter = open_segmenter(model, device, preset, precision, runtime)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if slow := slow_inference(segmenter.precision, segmenter.device):
        console.print(slow, markup=False)
    reading = Reading(ignore_exif, sixteen_bit)
    evaluation_set = EvaluationSet.read(annotations, images, reading).part(slice(limit))
    for note in (*evaluation_set.notes, *evaluation_set.class_notes(segmenter.class_names)):
        console.print(note, markup=False)
    with progress_bar(console) as progress:
        task = progress.add_task("Segmenting", total=len(evaluation_set.image_ids))

        def seen() -> bool:
            progress.advance(task)
            return True

        entries = segment_all(segmenter, evaluation_set, seen)
    for reason in entries.left_out.values():
        console.print(f"left out: {reason}", markup=False)
    if results is not None:
        evaluation_set.write_results(entries, results)
        number = counted(len(entries), "detection")
        print(f'{results}: {number}; for the AP of masks by size, pycocotools needs the entries without "bbox"')
    if evaluation_set.truth is None:
        print(f"{annotations} has no annotations, so there is no AP. A test server takes the file of --results.")
    else:
        scores = score(evaluation_set, entries)
        print(f"boxes\n{scores.box.table()}\nmasks\n{scores.mask.table()}\n\n{scores.markdown()}", end="")
        if report is not None:
            write_text(report, scores.markdown())
        if worst:
            for picture in save_worst(evaluation_set, entries, scores.quality, worst, output):
                print(picture)
    if speed:
        measured = measure_speed(segmenter, evaluation_set)
        alone = "" if measured.network is None else f"network alone {measured.network:.1f} images/s, "
        print(f"{alone}end to end {measured.end_to_end:.1f} images/s")
