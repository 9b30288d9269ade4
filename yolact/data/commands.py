"""`yolact data …`: checks a data set, and makes a synthetic one."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from yolact.data.check import Report, compare_orientations
from yolact.data.check import check as check_dataset
from yolact.data.coco import CocoDataset
from yolact.data.images import Reading
from yolact.data.problems import KINDS, Severity, by_kind, counted
from yolact.data.shapes import write_dataset
from yolact.data.sheet import contact_sheet
from yolact.files import write_picture
from yolact.options import IgnoreExifOption, SixteenBitOption
from yolact.progress import progress_bar

app = typer.Typer(help="Check a data set, or make one.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def check(
    annotations: Annotated[Path, typer.Argument(metavar="ANNOTATIONS", help="COCO-format JSON file.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder that the file names in it are relative to.")],
    sheet: Annotated[Path, typer.Option(help="PNG file to write, a picture of annotated samples.")] = Path(
        "data-check.png"
    ),
    examples: Annotated[int, typer.Option(min=1, help="How many problems of each kind to print.")] = 5,
    headers_only: Annotated[bool, typer.Option(help="Read only headers. It is faster but finds less.")] = False,
    ignore_exif: IgnoreExifOption = False,
    sixteen_bit: SixteenBitOption = "high",
) -> None:
    """Report what is in a data set and what is wrong with it. The exit code is 1 if there are errors."""
    reading = Reading(ignore_exif, sixteen_bit)
    report = check_dataset(annotations, images, headers_only, reading, _track)
    _print_contents(annotations, report)
    try:
        if report.usable:
            dataset = CocoDataset(annotations, images, reading=reading)
            write_picture(sheet, contact_sheet(dataset, both_ways=report.turned))
            print(f"Contact sheet: {sheet}")
            _print_orientations(dataset, report)
    finally:  # a sheet that cannot be written hides no problem
        _print_problems(report, examples)
    if report.errors:
        raise typer.Exit(1)


@app.command()
def shapes(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make. If it exists, it must be empty.")],
    train: Annotated[int, typer.Option(min=0, help="Images to train on.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Images to validate on.")] = 200,
    size: Annotated[int, typer.Option(min=64, help="Side of the images in pixels.")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other scenes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes. It does not change the result.")] = 1,
) -> None:
    """Make `shapes`, a synthetic data set to try things out."""
    write_dataset(out, train, val, size, seed, workers, _track)
    for split, count in (("train", train), ("val", val)):
        if count:
            print(f"{out / 'annotations' / split}.json, {out / split}: {counted(count, 'image')}")


def _track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=description)


def _print_contents(annotations: Path, report: Report) -> None:
    console = Console(soft_wrap=True, highlight=False)
    objects, crowds = (sum(getattr(count, name) for count in report.classes) for name in ("objects", "crowds"))
    console.print(
        f"{annotations}: {counted(report.images, 'image')} ({report.empty_images} without objects), "
        f"{counted(objects, 'object')}, {counted(crowds, 'crowd')}, {counted(len(report.classes), 'class', 'classes')}",
        markup=False,
    )
    if report.unlisted_files:
        verb = "is" if report.unlisted_files == 1 else "are"
        console.print(f"{counted(report.unlisted_files, 'image')} of the folder {verb} not in the annotations")
    table = Table("class", box=None)
    for name in ("objects", "images", "small", "medium", "large", "crowds"):
        table.add_column(name, justify="right")
    for count in report.classes:
        numbers = (count.objects, count.images, count.small, count.medium, count.large, count.crowds)
        table.add_row(count.name, *map(str, numbers))
    table.caption = "small: masks of less than 32² pixels, large: masks of 96² pixels or more"
    table.caption_justify = "left"
    console.print(table)


def _print_orientations(dataset: CocoDataset, report: Report) -> None:
    """Prints which way the masks fit better, if EXIF turns pictures without changing their size."""
    if not report.turned:
        return
    as_read, other = compare_orientations(dataset, report.turned)
    ignored = dataset.annotations.reading.ignore_exif
    turned, stored = (other, as_read) if ignored else (as_read, other)
    advice = ""
    if other > as_read:
        advice = ": leave out --ignore-exif" if ignored else ": give --ignore-exif"
    print(
        f"EXIF turns {counted(len(report.turned), 'picture')} without changing the size. The masks fit {turned} of "
        f"them better as EXIF turns them, and {stored} of them better as they are stored{advice}. They are read "
        f"{'as stored' if ignored else 'as EXIF turns them'}; the sheet shows both."
    )


def _print_problems(report: Report, examples: int) -> None:
    console = Console(soft_wrap=True, highlight=False)
    styles = {Severity.NOTE: "", Severity.WARNING: "yellow", Severity.ERROR: "red", Severity.FATAL: "red"}
    for kind, problems in by_kind(report.problems).items():
        severity = problems[0].severity
        heading = f"{severity.word}: {kind}, {counted(len(problems), 'time')} – {KINDS[kind].consequence}"
        console.print(heading, style=styles[severity], markup=False)
        for problem in problems[:examples]:
            console.print(f"  {problem.text}", markup=False)
        if len(problems) > examples:
            console.print(f"  … and {len(problems) - examples} more (--examples {len(problems)} prints them)")
    severities = Counter(problem.severity for problem in report.problems)
    words = (
        counted(report.errors, "error"),
        counted(severities[Severity.WARNING], "warning"),
        counted(severities[Severity.NOTE], "note"),
    )
    console.print(", ".join(words))
