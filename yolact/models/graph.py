"""CUDA graphs: work on a CUDA device is captured once and then replayed, one launch instead of hundreds."""

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs")
Result = TypeVar("Result")

WARM_UPS = 3  # TorchScript needs one to record the shapes and one to compile for them
_capturing = threading.Lock()  # torch allows a process one capture at a time


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Any


class CudaGraphs:
    """Graphs of one function, each captured at the first call with its shapes and settings, and replayed from then on.

    The graphs share their memory, so threads that call `run` take turns. Other work of the process is not disturbed.

    Args:
        device: where the function runs.
        most: how many graphs are kept; a new one replaces the one that was not used for the longest time.

    Raises:
        ValueError: if `device` is not CUDA.
    """

    def __init__(self, device: torch.device, most: int = 8):
        if device.type != "cuda":
            raise ValueError(f"CUDA graphs need a detector on CUDA, this one is on {device}")
        self._device = device
        self._most = most
        self._captured: dict[Hashable, _Captured] = {}  # the last used comes last
        self._stream = torch.cuda.Stream(device)
        self._lock = threading.Lock()

    def run(
        self,
        function: Callable[[list[Tensor]], Outputs],
        inputs: Sequence[Tensor],
        settings: Hashable,
        read: Callable[[Outputs], Result],
    ) -> Result:
        """Runs `function` on `inputs` and returns what `read` makes of its outputs.

        Args:
            function: the same at every call. It may only queue work on the device that depends on no value.
            inputs: tensors on any device.
            settings: everything else that the work of the function depends on.
            read: turns the outputs into the result. It must copy, because the next call overwrites the outputs.
        """
        key = (settings, tuple(tensor.shape for tensor in inputs))
        with self._lock, torch.cuda.device(self._device), torch.no_grad():
            caller = torch.cuda.current_stream()
            captured = self._captured.pop(key, None)
            if captured is None:
                captured = self._capture(function, inputs)
            self._captured[key] = captured
            if len(self._captured) > self._most:
                del self._captured[next(iter(self._captured))]
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                for own, given in zip(captured.inputs, inputs, strict=True):
                    own.copy_(given if given.is_cuda else given.pin_memory(), non_blocking=True)
                captured.graph.replay()
            caller.wait_stream(self._stream)
            result = read(captured.outputs)
            # The next call may come from another thread and stream: it must not overwrite the outputs too early.
            self._stream.wait_stream(caller)
            return result

    def _capture(self, function: Callable[[list[Tensor]], Outputs], inputs: Sequence[Tensor]) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        # Only graphs that still exist can share their memory.
        pool = next(iter(self._captured.values())).graph.pool() if self._captured else torch.cuda.graph_pool_handle()
        with _capturing:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                own = [torch.zeros_like(tensor, device=self._device) for tensor in inputs]
                for _ in range(WARM_UPS):
                    function(own)
            # With "global", no other thread could allocate memory in the meantime.
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = function(own)
        return _Captured(graph, own, outputs)
