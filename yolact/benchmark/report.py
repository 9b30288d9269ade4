"""What was measured, as one table and as JSON, and the machine it was measured on."""

import json
import platform
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
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

    device: as torch calls it.
    precision: one of `PRECISIONS`, or empty where a part has none.
    batch: images of a call.
    rounds: how often it was measured.
    median, p95: milliseconds of a call.
    plain: median milliseconds of plain PyTorch doing the same, in turns with it; None where there is no such thing.
    memory, plain_memory: MiB that a call adds at its peak.
    floor: milliseconds that it takes at least.
    whole: it is a part whose images a second mean something.
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
        """How many times faster than plain."""
        return None if self.plain is None else self.plain / self.median

    @property
    def share_of_floor(self) -> float | None:
        """The floor in the median, 1 at the floor."""
        return None if self.floor is None else self.floor / self.median

    @property
    def images_per_second(self) -> float | None:
        return self.batch / self.median * 1e3 if self.whole else None


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures are measured on, with what, and when."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instructions": [torch.backends.cpu.get_cpu_capability()],
    }
    for name, supported in (
        ("AVX512_BF16", torch.cpu._is_avx512_bf16_supported),
        ("AMX", torch.cpu._is_amx_tile_supported),
    ):
        if supported():
            found["instructions"].append(name)
    if device.type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    versions = {"yolact": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return found | versions | {"date": time.strftime("%Y-%m-%d")}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _in_words(found: dict[str, Any]) -> str:
    gpu = f"{found['gpu']}, CUDA {found['cuda']}, cuDNN {found['cudnn']}; " if "gpu" in found else ""
    return (
        f"{gpu}{found['processor']}, {found['threads']} threads, {' '.join(found['instructions'])}; "
        f"yolact {found['yolact']}, torch {found['torch']}, Python {found['python']}, {found['date']}"
    )


# Heading, what stands below it, and how.
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


def print_report(found: dict[str, Any], rows: Sequence[Row], to_stderr: bool = False) -> None:
    """Prints the machine and the table, without the columns that no row fills."""
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
    console.print(_in_words(found), markup=False)
    # Rather a long line than broken words.
    wanted = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, wanted)
    console.print(table)


def json_target(path: Path | None) -> AbstractContextManager[Path | None]:
    """Where to let `write_json` write: to be opened before anything is measured, for it says early what is wrong.

    Args:
        path: a file, which is written whole; `STANDARD_OUTPUT`; or None for nowhere.

    Raises:
        OSError: if the file's folder does not exist or cannot be written.
    """
    return nullcontext(path) if path is None or path == STANDARD_OUTPUT else written_whole(path)


def write_json(target: Path | None, found: dict[str, Any], rows: Sequence[Row]) -> None:
    """Writes the machine and the rows to what `json_target` gave."""
    derived = ("ratio", "share_of_floor", "images_per_second")
    results = [asdict(row) | {name: getattr(row, name) for name in derived} for row in rows]
    text = json.dumps({"machine": found, "results": results}, indent=1) + "\n"
    if target == STANDARD_OUTPUT:
        print(text, end="")
    elif target is not None:
        target.write_text(text)
