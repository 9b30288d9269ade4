"""Measures calls: their time in turns with other calls, the memory that they add, and the machine's best."""

import ctypes
import mmap
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

WARM_UP = 3  # calls: TorchScript optimises a graph in the first two
LARGE_BLOCK = 1 << 16  # bytes; the measurement of memory may miss a smaller block
PEAK_CALLS, PEAK_SECONDS = 5, 0.3  # the machine's best is the best of at least so many calls in at least that time
Call = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Milliseconds of a call: the median and the 95th percentile of the rounds."""

    median: float
    p95: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> "Times":
        values = torch.tensor(milliseconds, dtype=torch.float64)
        return cls(values.quantile(0.5).item(), values.quantile(0.95).item())


def now(device: torch.device) -> float:
    """The time of a clock in seconds, after `device` has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def take_turns(
    calls: Mapping[str, Call], device: torch.device, rounds: int, warm_up: int = WARM_UP
) -> dict[str, Times]:
    """The times of each call. The calls take turns, so that other work on the machine slows all of them equally.

    Args:
        calls: by name.
        device: of the calls; it must finish each call before the clock is read.
        rounds: measurements of each call.
        warm_up: rounds before that, which do not count.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            start = now(device)
            call()
            if number >= warm_up:
                milliseconds[name].append((now(device) - start) * 1e3)
    return {name: Times.of(values) for name, values in milliseconds.items()}


class PeakMemory(AbstractContextManager["PeakMemory"]):
    """The memory that calls add at their peak, with their results.

    On CUDA that is what torch's allocator counts in this process. On the CPU it is address space, so it includes pages
    that are reserved and never touched. An allocator serves most requests from memory that its process keeps, so the
    calls are repeated in another process, whose allocator keeps nothing large.

    Args:
        device: of the calls.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._process: ProcessPoolExecutor | None = None
        if device.type == "cpu" and Path("/proc/self/status").exists():
            self._process = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _keep_nothing, (torch.get_num_threads(),)
            )

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.shutdown(cancel_futures=True)

    def of(self, make: Callable[[], Call]) -> float | None:
        """MiB that a call adds; None if they cannot be measured.

        Args:
            make: prepares the call; picklable, because on the CPU it goes to the other process.
        """
        if self._device.type == "cuda":
            return _allocated_on(self._device, make)
        return None if self._process is None else self._process.submit(_added_address_space, make).result()


def _allocated_on(device: torch.device, make: Callable[[], Call]) -> float:
    call = make()
    call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    del result
    return (peak - before) / 2**20


def _keep_nothing(threads: int) -> None:
    """Makes glibc return large blocks to the system at once, and share one arena between threads."""
    threshold, arenas = -3, -8  # M_MMAP_THRESHOLD and M_ARENA_MAX of malloc.h
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(threshold, LARGE_BLOCK)
        library.mallopt(arenas, 1)
    torch.set_num_threads(threads)


def _added_address_space(make: Callable[[], Call]) -> float:
    torch.manual_seed(0)
    call = make()
    call()  # threads and caches that stay do not count
    # The space of many freed small blocks may serve a large block, which the measurement would miss: fill that space.
    filling, size = [], _status_kib("VmSize")
    while _status_kib("VmSize") == size:
        filling.append(torch.empty(LARGE_BLOCK, dtype=torch.uint8))
    # The kernel never lowers a process's peak: reserve the memory between the peak and now, so that a call raises it.
    missing = (_status_kib("VmPeak") - _status_kib("VmSize")) * 1024
    reserve = mmap.mmap(-1, missing) if missing > 0 else None
    before = _status_kib("VmSize")
    result = call()
    peak = _status_kib("VmPeak")
    del result
    if reserve is not None:
        reserve.close()
    return (peak - before) / 2**10


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


@dataclass(frozen=True)
class Work:
    """The least work of a call: operations (a product and a sum are two) and bytes that are read or written."""

    flops: float = 0
    bytes: float = 0


class Floor:
    """The least time that work takes on a device, as measured in this run.

    The rate of arithmetic is that of a large matrix product or of a large convolution, whichever is faster in that
    precision. Bytes take as long as a copy that moves as many. Each rate is measured once, when it is first needed.

    Args:
        device: to measure on.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._rates: dict[torch.dtype, float] = {}
        self._copies: dict[int, float] = {}

    def milliseconds(self, work: Work, precision: torch.dtype) -> float:
        """The time of the arithmetic plus the time of the movement."""
        arithmetic = work.flops / self.rate(precision) if work.flops > 0 else 0.0
        return (arithmetic + (self._copy(int(work.bytes)) if work.bytes > 0 else 0.0)) * 1e3

    @torch.no_grad()
    def rate(self, precision: torch.dtype) -> float:
        """FLOP a second."""
        if precision not in self._rates:
            size = 8192 if self._device.type == "cuda" else 2048
            matrix = torch.randn(size, size, device=self._device).to(precision)
            channels, side = 256, 276 if self._device.type == "cuda" else 138
            image = torch.randn(1, channels, side, side, device=self._device).to(precision)
            image = image.contiguous(memory_format=torch.channels_last)
            kernel = torch.randn(channels, channels, 3, 3, device=self._device).to(precision)
            kernel = kernel.contiguous(memory_format=torch.channels_last)
            product = 2 * size**3 / self._best(lambda: matrix @ matrix)
            convolution = 2 * 9 * (channels * side) ** 2 / self._best(lambda: torch.conv2d(image, kernel, padding=1))
            self._rates[precision] = max(product, convolution)
        return self._rates[precision]

    def _copy(self, moved: int) -> float:
        if moved not in self._copies:
            source = torch.zeros(max(moved // 2, 1), dtype=torch.uint8, device=self._device)
            target = torch.zeros_like(source)
            self._copies[moved] = self._best(lambda: target.copy_(source))
        return self._copies[moved]

    def _best(self, call: Call) -> float:
        """Seconds of the fastest of some calls."""
        call()
        seconds: list[float] = []
        while len(seconds) < PEAK_CALLS or sum(seconds) < PEAK_SECONDS:
            start = now(self._device)
            call()
            seconds.append(now(self._device) - start)
        return min(seconds)
