"""`yolact data …`: looking into a data set, and making one."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torchvision.io import write_png

from yolact.data.annotations import Problem, Severity
from yolact.data.check import Report
from yolact.data.check import check as check_dataset
from yolact.data.coco import CocoDataset
from yolact.data.shapes import write_dataset
from yolact.data.sheet import contact_sheet
from yolact.files import written_whole
from yolact.progress import progress_bar

app = typer.Typer(help="Look into a data set, or make one.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def check(
    annotations: Annotated[Path, typer.Argument(metavar="ANNOTATIONS", help="COCO-format JSON file.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder that its file names are relative to.")],
    sheet: Annotated[Path, typer.Option(help="Where to write a picture of annotated samples, a PNG.")] = Path(
        "data-check.png"
    ),
    examples: Annotated[int, typer.Option(min=1, help="Name that many of each kind of problem.")] = 5,
    headers_only: Annotated[bool, typer.Option(help="Do not read the images' pixels: faster, finds less.")] = False,
) -> None:
    """Report what is in a data set and what is wrong with it; exit code 1 if there are errors."""
    report = check_dataset(annotations, images, headers_only, _track)
    _print_contents(annotations, report)
    if report.usable:
        with written_whole(sheet) as temporary:
            write_png(contact_sheet(CocoDataset(annotations, images)), str(temporary))
        print(f"Contact sheet: {sheet}")
    _print_problems(report, examples)
    if report.errors:
        raise typer.Exit(1)


@app.command()
def shapes(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not exist or be empty.")],
    train: Annotated[int, typer.Option(min=0, help="Images to train on.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Images to validate on.")] = 200,
    size: Annotated[int, typer.Option(min=64, help="Side of the images, pixels.")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other scenes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result is the same.")] = 1,
) -> None:
    """Make `shapes`, a synthetic data set for trying things out."""
    write_dataset(out, train, val, size, seed, workers, _track)
    for split, count in (("train", train), ("val", val)):
        if count:
            print(f"{out / 'annotations' / split}.json, {out / split}: {count} images")


def _track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=description)


def _print_contents(annotations: Path, report: Report) -> None:
    console = Console(soft_wrap=True, highlight=False)
    objects, crowds = (sum(getattr(count, name) for count in report.classes) for name in ("objects", "crowds"))
    console.print(
        f"{annotations}: {report.images} images ({report.empty_images} without objects), {objects} objects, "
        f"{crowds} crowds, {len(report.classes)} classes",
        markup=False,
    )
    if report.unlisted_files:
        console.print(f"{report.unlisted_files} images of the folder are not among them")
    table = Table("class", box=None)
    for name in ("objects", "images", "small", "medium", "large", "crowds"):
        table.add_column(name, justify="right")
    for count in report.classes:
        numbers = (count.objects, count.images, count.small, count.medium, count.large, count.crowds)
        table.add_row(count.name, *map(str, numbers))
    table.caption = "small: under 32² pixels of mask, large: from 96² on"
    table.caption_justify = "left"
    console.print(table)


def _print_problems(report: Report, examples: int) -> None:
    console = Console(soft_wrap=True, highlight=False)
    kinds: dict[tuple[Severity, str], list[Problem]] = defaultdict(list)
    for problem in report.problems:
        kinds[problem.severity, problem.kind].append(problem)
    for (severity, kind), problems in sorted(kinds.items(), reverse=True):
        word, style = ("warning", "yellow") if severity is Severity.WARNING else ("error", "red")
        fatal = ", the loader refuses the file" if severity is Severity.FATAL else ""
        console.print(f"{word}: {kind}, {len(problems)} times{fatal}", style=style, markup=False)
        for problem in problems[:examples]:
            console.print(f"  {problem.text}", markup=False)
        if len(problems) > examples:
            console.print(f"  … and {len(problems) - examples} more (--examples {len(problems)} names them)")
    warnings = len(report.problems) - report.errors
    console.print(f"{report.errors or 'no'} errors, {warnings or 'no'} warnings")
