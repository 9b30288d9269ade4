"""Work on a CUDA device captured as CUDA graphs: what took hundreds of launches takes one."""

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs")
Result = TypeVar("Result")

WARM_UPS = 3  # of these, TorchScript takes one to look at the shapes and one to compile for them
_capturing = threading.Lock()  # torch allows a process one capture at a time


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: object


class CudaGraphs:
    """Graphs of one function, each captured at the first call with its shapes and settings, and replayed from then on.

    They share their memory, so threads that call `run` take turns. Other work of the process is not disturbed.

    Args:
        device: where the function runs.
        most: how many graphs are kept; the one not used for longest makes way.

    Raises:
        ValueError: if `device` is not CUDA.
    """

    def __init__(self, device: torch.device, most: int = 8):
        if device.type != "cuda":
            raise ValueError(f"CUDA graphs need a detector on CUDA, this one is on {device}")
        self._device = device
        self._most = most
        self._captured: dict[Hashable, _Captured] = {}  # the last used last
        self._stream = torch.cuda.Stream(device)
        self._lock = threading.Lock()

    def run(
        self,
        function: Callable[[list[Tensor]], Outputs],
        inputs: Sequence[Tensor],
        settings: Hashable,
        read: Callable[[Outputs], Result],
    ) -> Result:
        """What `read` makes of the function's outputs.

        Args:
            function: the same at every call. It must only queue work on the device, and none that depends on values.
            inputs: tensors on any device.
            settings: all else that the function's work depends on.
            read: turns the outputs, which the next call overwrites, into what is returned.
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
            # Another thread's call may come from another stream.
            self._stream.wait_stream(caller)
            return result

    def _capture(self, function: Callable[[list[Tensor]], Outputs], inputs: Sequence[Tensor]) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        # Memory can be shared only with graphs that still exist.
        pool = next(iter(self._captured.values())).graph.pool() if self._captured else torch.cuda.graph_pool_handle()
        with _capturing:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                own = [torch.zeros_like(tensor, device=self._device) for tensor in inputs]
                for _ in range(WARM_UPS):
                    function(own)
            # Not "global": other threads may allocate meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = function(own)
        return _Captured(graph, own, outputs)
