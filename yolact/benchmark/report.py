"""The measurements as a table and as JSON, with the machine on which they were made."""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from yolact.files import written_whole
from yolact.version import __version__

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True)
class Row:
    """One part in one setting.

    device: torch's name of it.
    precision: one of `PRECISIONS`, or empty if the part has none.
    batch: images of a call.
    rounds: the number of measurements.
    median, p95: milliseconds of a call.
    plain: median milliseconds of plain PyTorch that does the same, in turns with ours; None if there is no such thing.
    memory, plain_memory: MiB that a call adds at its peak.
    floor: the least milliseconds that a call can take.
    whole: whether an image goes through all of the part, so that images a second mean something.
    """

    part: str
    device: str
    precision: str
    batch: int
    rounds: int
    median: float
    p95: float
    plain: float | None = None
    memory: float | None = None
    plain_memory: float | None = None
    floor: float | None = None
    whole: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is than plain."""
        return None if self.plain is None else self.plain / self.median

    @property
    def share_of_floor(self) -> float | None:
        """The floor divided by the median: 1 at the floor."""
        return None if self.floor is None else self.floor / self.median

    @property
    def images_per_second(self) -> float | None:
        return self.batch / self.median * 1e3 if self.whole else None


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that makes the measurements, the versions of the software, and the date."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instructions": [torch.backends.cpu.get_cpu_capability()],
    }
    for name, supported in (
        ("AVX512_BF16", torch.cpu._is_avx512_bf16_supported),
        ("AMX", torch.cpu._is_amx_tile_supported),
    ):
        if supported():
            facts["instructions"].append(name)
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    versions = {"yolact": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return facts | versions | {"date": time.strftime("%Y-%m-%d")}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _in_words(facts: dict[str, Any]) -> str:
    gpu = f"{facts['gpu']}, CUDA {facts['cuda']}, cuDNN {facts['cudnn']}; " if "gpu" in facts else ""
    return (
        f"{gpu}{facts['processor']}, {facts['threads']} threads, {' '.join(facts['instructions'])}; "
        f"yolact {facts['yolact']}, torch {facts['torch']}, Python {facts['python']}, {facts['date']}"
    )


# Heading, the field of `Row` below it, and its format.
_COLUMNS = (
    ("part", "part", "{}"),
    ("device", "device", "{}"),
    ("precision", "precision", "{}"),
    ("batch", "batch", "{}"),
    ("median ms", "median", "{:.2f}"),
    ("p95 ms", "p95", "{:.2f}"),
    ("images/s", "images_per_second", "{:.1f}"),
    ("plain ms", "plain", "{:.2f}"),
    ("ratio", "ratio", "{:.2f}"),
    ("MiB", "memory", "{:.1f}"),
    ("plain MiB", "plain_memory", "{:.1f}"),
    ("of the floor", "share_of_floor", "{:.1%}"),
)


def print_report(facts: dict[str, Any], rows: Sequence[Row], to_stderr: bool = False) -> None:
    """Prints what `machine` gave and the table, without the columns that no row fills."""
    table = Table(box=None, pad_edge=False)
    columns = []
    for heading, field, form in _COLUMNS:
        values = [getattr(row, field) for row in rows]
        if any(value not in (None, "") for value in values):
            table.add_column(heading, justify="left" if form == "{}" and field != "batch" else "right")
            columns.append(["" if value is None else form.format(value) for value in values])
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    console = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
    console.print(_in_words(facts), markup=False)
    # A long line is easier to read than broken words.
    wanted = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, wanted)
    console.print(table)


@contextmanager
def json_target(path: Path | None) -> Iterator[Callable[[str], object]]:
    """The target of `write_json`. Open it before anything is measured, so that an error comes early.

    Args:
        path: a file, which is written whole or not at all; `STANDARD_OUTPUT`; or None for nowhere.

    Raises:
        WriteError: if the file cannot be written.
    """
    if path is None:
        yield lambda text: None
    elif path == STANDARD_OUTPUT:
        yield sys.stdout.write
    else:
        with written_whole(path) as file:
            yield lambda text: file.write(text.encode())


def write_json(write: Callable[[str], object], facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """Writes what `machine` gave and the rows with what `json_target` gave."""
    derived = ("ratio", "share_of_floor", "images_per_second")
    results = [asdict(row) | {name: getattr(row, name) for name in derived} for row in rows]
    write(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
