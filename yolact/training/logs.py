"""What a run tells its reader: the progress bar, config.json, metrics.jsonl, TensorBoard, curves.png and the report."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from yolact.evaluation.scores import Scores
from yolact.files import AppendedFile, make_folder, write_text, written_whole
from yolact.progress import progress_bar
from yolact.training.board import Board
from yolact.training.losses import Losses
from yolact.training.settings import TrainingSettings

METRICS = "metrics.jsonl"
_CURVES, _REPORT, _FIGURES, _CONFIG = "curves.png", "report.md", "report.json", "config.json"
FILES_OF_A_RUN = (_CURVES, _REPORT, _FIGURES, _CONFIG)  # written whole
_SECONDS_BETWEEN_LINES = 30  # where there is no terminal for a progress bar


class RunLog:
    """Writes a run's records as they come.

    metrics.jsonl holds one JSON object a line: those of training have "loss", those of evaluation "evaluation", and
    those of skipped steps "skipped".

    Args:
        folder: of the run, made if missing.
        iteration: where the run goes on; records of later iterations are removed.
        evaluated_at: the iteration of the last evaluation; records of later evaluations are removed too.
        main: whether this is the main process; in the others nothing is written.

    Raises:
        WriteError: if a file cannot be written; the methods raise it too.
    """

    def __init__(self, folder: Path, iteration: int, evaluated_at: int = 0, main: bool = True):
        self.folder, self.main = folder, main
        if not main:
            return
        make_folder(folder)
        path = folder / METRICS
        kept = []
        for record in read_metrics(path) if iteration else []:
            if record["iteration"] <= (evaluated_at if "evaluation" in record else iteration):
                kept.append(record)
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = AppendedFile(path)
        self._board = Board(folder / "tensorboard", iteration + 1 if iteration else None)

    def config(self, preset: str, class_names: Sequence[str], total: int, settings: TrainingSettings) -> None:
        """Writes config.json; `TrainingSettings.from_dict` reads its "settings" back.

        Args:
            preset: its name.
            class_names: of the network, by label.
            total: iterations of the run.
            settings: of the run.
        """
        if not self.main:
            return
        content = {"preset": preset, "class_names": list(class_names), "total": total, "settings": asdict(settings)}
        write_text(self.folder / _CONFIG, json.dumps(content, indent=1))

    def losses(self, iteration: int, losses: dict[str, float], values: dict[str, float]) -> None:
        """Records the parts of the loss and other numbers of a step.

        Args:
            iteration: how many steps were done.
            losses: by name of the part.
            values: for example the learning rate.
        """
        if not self.main:
            return
        total = sum(losses.values())
        self._write({"iteration": iteration, "loss": {**losses, "total": total}, **values})
        for name, value in (*losses.items(), ("total", total)):
            self._board.scalar(f"loss/{name}", value, iteration)
        for name, value in values.items():
            self._board.scalar(f"training/{name}", value, iteration)

    def skipped(self, iteration: int, parts: list[str], images: list[str]) -> None:
        """Records a step that was skipped because `parts` were not finite."""
        if self.main:
            self._write({"iteration": iteration, "skipped": parts, "images": images})

    def evaluation(self, iteration: int, scores: Scores, pictures: Iterable[Tensor]) -> None:
        """Records an evaluation and shows its pictures, uint8 [3, H, W]."""
        if not self.main:
            return
        self._write({"iteration": iteration, "evaluation": scores.as_dict()})
        for kind, summary in (("mask", scores.mask), ("box", scores.box)):
            for field in ("ap", "ap50", "ap75"):
                self._board.scalar(f"{kind}/{field}", getattr(summary, field), iteration)
        for number, picture in enumerate(pictures):
            self._board.picture(f"prediction beside truth/{number}", picture, iteration)

    def close(self) -> None:
        """Closes the files."""
        if self.main:
            self._file.close()
            self._board.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")


class Display:
    """Shows how far a run is: a progress bar on a terminal, elsewhere a line twice a minute.

    It is a context manager: the bar is there within its block.

    Args:
        console: to show it on.
        iteration, total: where the run goes on, and where it ends.
        batch_size: images of an iteration.
        main: whether this is the main process; in the others nothing is shown.
    """

    def __init__(self, console: Console, iteration: int, total: int, batch_size: int, main: bool):
        self.console, self.iteration, self.total, self.batch_size = console, iteration, total, batch_size
        self._bar = progress_bar(console)
        self._bar.disable = self._bar.disable or not main
        self._prints_lines = main and not console.is_terminal
        self._task = self._bar.add_task("Training", total=total, completed=iteration)
        self._since = self._spoke = time.perf_counter()

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def restart_clock(self, iteration: int) -> None:
        """Leaves the time since the last rate out of the next one."""
        self._since, self.iteration = time.perf_counter(), iteration

    def images_per_second(self, iteration: int) -> float:
        """The rate since it was last asked for."""
        since, before = self._since, self.iteration
        self.restart_clock(iteration)
        return (iteration - before) * self.batch_size / (self._since - since)

    def losses(self, iteration: int, losses: dict[str, float], images_per_second: float) -> None:
        """Shows the losses, by name, and the rate."""
        self._bar.update(self._task, description=_short(losses))
        if self._prints_lines and time.perf_counter() - self._spoke > _SECONDS_BETWEEN_LINES:
            self._spoke = time.perf_counter()
            left = (self.total - iteration) * self.batch_size / max(images_per_second, 1e-9) / 60
            text = f"{iteration}/{self.total} {_short(losses)}, {images_per_second:.1f} images/s, {left:.0f} min left"
            self.console.print(text, markup=False)

    def advance(self, iteration: int) -> None:
        """Shows how many iterations are done."""
        self._bar.update(self._task, completed=iteration)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl up to a line that was cut short; none if there is no file."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def write_curves(folder: Path) -> None:
    """Draws the metrics of the run in `folder` into its curves.png."""
    records = read_metrics(folder / METRICS)
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if "evaluation" in record]
    figure = Figure(figsize=(18, 5))
    left, middle, right = figure.subplots(1, 3)
    for part in (*Losses._fields, "total"):
        having = [r for r in steps if part in r["loss"]]
        if having:
            left.plot([r["iteration"] for r in having], [r["loss"][part] for r in having], label=part, linewidth=1)
    left.set(title="losses", xlabel="iteration", yscale="log")
    middle.plot([r["iteration"] for r in steps], [r["learning_rate"] for r in steps])
    middle.set(title="learning rate", xlabel="iteration")
    for kind in ("mask", "box"):
        for field in ("ap", "ap50"):
            values = [r["evaluation"][kind][field] for r in evaluations]
            right.plot([r["iteration"] for r in evaluations], values, label=f"{kind} {field.upper()}", marker=".")
    right.set(title="validation", xlabel="iteration", ylim=(0, 100))
    for axes in (left, right):
        if axes.lines:
            axes.legend()
    with written_whole(folder / _CURVES) as file:
        figure.savefig(file, format="png", dpi=80, bbox_inches="tight")


def write_report(folder: Path, title: str, scores: Scores) -> None:
    """Writes report.md and report.json: AP over all classes and of each."""
    write_text(folder / _REPORT, f"# {title}\n\n{scores.markdown()}")
    write_text(folder / _FIGURES, json.dumps(scores.as_dict(), indent=1))


def _short(losses: dict[str, float]) -> str:
    """Losses as text, for example "boxes 1.20 classes 2.31 masks 1.98 semantic 0.40"."""
    return " ".join(f"{name} {value:.2f}" for name, value in losses.items())
