"""`yolact predict`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from yolact.data.images import IMAGE_SUFFIXES, ImageError, Reading, is_dark, read_header
from yolact.data.pictures import dark_problems
from yolact.data.problems import summary
from yolact.evaluation.coco import coco_results
from yolact.evaluation.results import Results
from yolact.files import WriteError, check_folder_writable, check_writable, make_folder, write_picture
from yolact.options import MODEL_HELP, DeviceOption, IgnoreExifOption, PrecisionOption, PresetOption, SixteenBitOption
from yolact.precision import slow_inference
from yolact.progress import progress_bar
from yolact.segmenters import Segmenter, open_segmenter
from yolact.visualize import draw

DEFAULT_SCORE_THRESHOLD = 0.15  # hides what a person would call wrong; yolact-segment has the same default


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
    ignore_exif: IgnoreExifOption = False,
    sixteen_bit: SixteenBitOption = "high",
    preset: PresetOption = None,
) -> None:
    """Find the objects in images: draw them, write them as JSON, or both."""
    if not pictures and json_file is None:
        raise typer.BadParameter("--no-pictures leaves nothing to write without --json FILE")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    segmenter = open_segmenter(model, device, preset, precision)
    if slow := slow_inference(segmenter.precision, segmenter.device):
        console.print(f"yolact: {slow}", markup=False)
    segmenter.score_threshold = score_threshold
    if max_detections is not None:
        segmenter.max_detections = max_detections
    images = _images_in(sources)
    targets: list[Path] = _picture_paths(images, output) if pictures else []
    _check_distinct([*images, Path(model)], targets if json_file is None else [*targets, json_file])
    if pictures:
        make_folder(output)
        check_folder_writable(output)
    if json_file is not None:
        make_folder(json_file.parent)
        check_writable(json_file)
    reading = Reading(ignore_exif, sixteen_bit)
    run = _Run(segmenter, reading, None if json_file is None else Results())
    failures = 0
    with progress_bar(console) as progress:
        for index, path in enumerate(progress.track(images, description="Segmenting")):
            try:
                print(run.segment(path, index + 1, targets[index] if pictures else None))
            except (ImageError, WriteError) as error:
                reason = str(error)
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                reason = f"{path}: {_reason(error)}"
            else:
                continue
            failures += 1
            console.print(f"yolact: {reason}", markup=False)
    for line in summary(dark_problems(run.dark)):
        console.print(f"yolact: {line}", markup=False)
    if failures and len(images) > 1:
        others = ", the others are done" if failures < len(images) else ""
        console.print(f"yolact: {failures} of {len(images)} images failed{others}", markup=False)
    if run.results is not None and json_file is not None:
        run.results.write(json_file)
    if failures:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Run:
    """What the images of a run have in common.

    segmenter, reading: how they are segmented and read.
    results: where their results go, if anywhere.
    dark: 16-bit pictures that are almost black, with their largest value.
    """

    segmenter: Segmenter
    reading: Reading
    results: Results | None
    dark: list[tuple[Path, int]] = field(default_factory=list)

    def segment(self, path: Path, number: int, target: Path | None) -> str:
        """Does all that is asked for one image and says what that was.

        Args:
            path: of the image.
            number: of the image in the results, from 1 on.
            target: the picture to draw, if any.
        """
        image = self.reading.read(path)
        detections = self.segmenter.forward_encoded([image])[0]
        count = len(detections.labels)
        line = f"{path}: {count} detection{'' if count == 1 else 's'}"
        if target is not None:
            write_picture(target, draw(image, detections, self.segmenter.class_names))
            line += f", {target}"
        if self.results is not None:
            names = (self.segmenter.class_names[label] for label in detections.labels.tolist())
            entries = zip(names, coco_results(detections, image_id=number), strict=True)
            source = os.fsencode(path).decode("utf-8", "replace")  # as yolact-segment writes it
            self.results.add([{"image": source, "category_name": name, **entry} for name, entry in entries])
        if self.reading.sixteen_bit == "high" and is_dark(image) and read_header(path).sixteen_bit:
            self.dark.append((path, int(image.max())))
        return line


def _reason(error: Exception) -> str:
    """An error in one line."""
    text = str(error).partition("\n")[0]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in text:
        return "there is not enough memory for this image"
    return text


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
