"""What the processes of a run share, over accelerate. With one process everything stays as it is."""

import signal
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from rich.console import Console
from torch import Tensor

from yolact.evaluation.results import Results
from yolact.models.inference import Precision
from yolact.ops import cuda_ops_available

IMAGES_GATHERED = 100  # the main process receives the results of so many images of each process at a time


class Processes:
    """The processes that train one network, as torchrun or `accelerate launch` started them; otherwise this one alone.

    Attributes:
        accelerator: accelerate's view of them.
        device: of this process.
        count, rank: how many processes there are, and the number of this one, from 0.
        main: whether this is the process that writes files and messages.

    Args:
        precision: below fp32, torch's autocast decides what is computed in it.
        cpu: use the CPU even where there is a GPU.
        console: for messages; standard error by default.

    Raises:
        ValueError: if the device is a GPU and the operators were built without CUDA.
    """

    def __init__(self, precision: Precision = "fp32", cpu: bool = False, console: Console | None = None):
        # Accelerate remembers the precision and device of an earlier run in this process, and refuses others.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu)
        self.device: torch.device = self.accelerator.device
        if self.device.type == "cuda" and not cuda_ops_available():
            raise ValueError(
                "the operators were built without CUDA: build them again with a CUDA toolkit, or use the CPU (--cpu)"
            )
        self.count: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        self.main: bool = self.accelerator.is_main_process
        self.console = Console(stderr=True, highlight=False, soft_wrap=True) if console is None else console

    def say(self, text: str) -> None:
        """Prints a message once, whatever the number of processes."""
        if self.main:
            self.console.print(text, markup=False)

    def summed(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in each of them."""
        return self.accelerator.reduce(values, "sum")

    def gathered(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, joined in the order of their ranks, in each of them."""
        return gather_object(values)

    def of_main(self, value: Any) -> Any:
        """The main process's `value`, in each of them."""
        return self.gathered([value])[0]

    def gather_results(self, own: Results, image_ids: Sequence[int]) -> Results:
        """The results of all processes, in the main one; the others get none.

        Args:
            own: of the images `image_ids[rank::count]`.
            image_ids: of all images.
        """
        if self.count == 1:
            return own
        everything = Results()
        together = self.count * IMAGES_GATHERED
        for begin in range(0, len(image_ids), together):
            ids = image_ids[begin : begin + together][self.rank :: self.count]
            for entries in self.gathered([own.of_image(image_id) for image_id in ids]):
                if self.main:
                    everything.add(entries)
        for left_out in self.gathered([own.left_out]):
            if self.main:
                everything.left_out.update(left_out)
        return everything

    def end(self) -> None:
        """Leaves the group of processes. A process that ends without this may abort."""
        self.accelerator.end_training()


class StopSignal:
    """Remembers a SIGINT or SIGTERM within its `with` block, so that the step in progress can end first.

    A second SIGINT interrupts at once. Loader processes must ignore both signals, see `ignore_stop_signals`.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_stop_signals(worker: int) -> None:
    """Makes a loader process ignore SIGINT and SIGTERM; job systems send them to every process of a run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
