"""A user's model, from pixels to masks: in Python, and an exported file in the C++ runtime too."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from yolact.benchmark.measure import Call, PeakMemory, take_turns
from yolact.benchmark.report import Row
from yolact.evaluation.evaluate import Segmenter, open_segmenter

PYTHON, RUNTIME = "from pixels to masks, Python", "from pixels to masks, C++"


def calls_of(segmenter: Segmenter, image: Tensor, batch: int) -> dict[str, Call]:
    """What can be timed of a model in Python: a file of a format before 3 does not give the network alone.

    Args:
        segmenter: a Detector or an exported model.
        image: uint8 RGB [H, W, 3], on the CPU.
        batch: how often it is in a call.
    """
    images, sizes = [image] * batch, [(image.shape[0], image.shape[1])] * batch

    def preprocess() -> Tensor:
        return torch.cat([segmenter.preprocess(one) for one in images])

    calls: dict[str, Call] = {"preprocess": preprocess}
    if hasattr(segmenter, "model"):
        network = torch.no_grad()(segmenter.model)
        inputs = preprocess()
        predictions = network(inputs)
        calls["network"] = lambda: network(inputs)
        calls["postprocess"] = lambda: segmenter.postprocess(predictions, sizes)
    calls[PYTHON] = lambda: segmenter.forward_batch(images)
    return calls


def no_runtime() -> str:
    """Why the C++ runtime cannot be called from Python; empty if it can."""
    try:
        from yolact import _runtime  # noqa: F401 – whether it loads is the question
    except ImportError as error:
        return f"its Python binding is not built ({error})"
    return ""


def runtime_call(model: str, device: torch.device, image: Tensor, batch: int) -> Call:
    """An exported file in the C++ runtime: `batch` images on the host to masks on the host.

    Raises:
        ValueError: if the runtime cannot run the model.
    """
    from yolact import _runtime

    segmenter, images = _runtime.Segmenter(model, str(device)), [image.numpy()] * batch
    return lambda: segmenter.segment_batch(images)


def benchmark_model(
    model: str,
    segmenter: Segmenter,
    image: Tensor,
    device: torch.device,
    batch: int,
    rounds: int,
    memory: PeakMemory | None = None,
    preset: str | None = None,
    runtime: bool = False,
) -> Iterator[Row]:
    """Rows for one batch size; the parts take turns.

    Args:
        model: what `open_segmenter` takes.
        segmenter: what it gave.
        image: uint8 RGB [H, W, 3], on the CPU.
        device: of `segmenter`.
        batch: images of a call, all the same.
        rounds: measurements of each part.
        memory: of the device; without it no memory is measured.
        preset: of a checkpoint that does not tell it.
        runtime: measure an exported model in the C++ runtime too.
    """
    calls = calls_of(segmenter, image, batch)
    if runtime:
        calls[RUNTIME] = runtime_call(model, device, image, batch)
    precision = getattr(getattr(segmenter, "model", None), "precision", "")
    for name, times in take_turns(calls, device, rounds).items():
        again = partial(_call_again, name, model, device, preset, image.numpy(), batch)
        added = None if memory is None else memory.of(again)
        whole = name not in ("preprocess", "postprocess")
        yield Row(name, device.type, precision, batch, rounds, times.median, times.p95, memory=added, whole=whole)


def _call_again(name: str, model: str, device: torch.device, preset: str | None, image: np.ndarray, batch: int) -> Call:
    """One of the calls, prepared anew: for another process."""
    pixels = torch.from_numpy(image)
    if name == RUNTIME:
        return runtime_call(model, device, pixels, batch)
    return calls_of(open_segmenter(model, str(device), preset), pixels, batch)[name]
