"""A user's model, from pixels to masks: in Python, and an exported file in the C++ runtime too."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from yolact.benchmark.measure import Call, PeakMemory, take_turns
from yolact.benchmark.report import Row
from yolact.segmenters import Segmenter

Opener = Callable[[], Segmenter]


def calls_of(name: str, segmenter: Segmenter, image: Tensor, batch: int) -> dict[str, Call]:
    """The calls that can be timed: the stages, if they can be called one by one, and the whole.

    Args:
        name: of the segmenter; the whole call's name has it.
        segmenter: to be called.
        image: uint8 RGB [H, W, 3], on the CPU.
        batch: how many times the image is in a call.
    """
    images, sizes = [image] * batch, [(image.shape[0], image.shape[1])] * batch
    calls: dict[str, Call] = {}
    stages = segmenter.stages()
    if stages is not None:
        preprocess, postprocess, network = stages.preprocess, stages.postprocess, torch.no_grad()(stages.model)
        inputs = torch.cat([preprocess(one) for one in images])
        predictions = network(inputs)
        calls["preprocess"] = lambda: torch.cat([preprocess(one) for one in images])
        calls["network"] = lambda: network(inputs)
        calls["postprocess"] = lambda: postprocess(predictions, sizes)
    calls[f"from pixels to masks, {name}"] = lambda: segmenter.forward_batch(images)
    return calls


def benchmark_model(
    openers: Mapping[str, Opener],
    segmenters: Mapping[str, Segmenter],
    image: Tensor,
    batch: int,
    rounds: int,
    memory: PeakMemory | None = None,
) -> Iterator[Row]:
    """Rows for one batch size; the calls take turns.

    Args:
        openers: what opened each of `segmenters`; picklable, as memory is measured in another process.
        segmenters: ways to run one model on one device, by name. Only one of them may have stages.
        image: uint8 RGB [H, W, 3], on the CPU.
        batch: how many times the image is in a call.
        rounds: measurements of each call.
        memory: of the device; without it no memory is measured.
    """
    calls: dict[str, Call] = {}
    owners: dict[str, str] = {}
    for name, segmenter in segmenters.items():
        own = calls_of(name, segmenter, image, batch)
        calls.update(own)
        owners.update(dict.fromkeys(own, name))
    device = next(iter(segmenters.values())).device
    for part, times in take_turns(calls, device, rounds).items():
        name = owners[part]
        again = partial(_call_again, part, name, openers[name], image.numpy(), batch)
        yield Row(
            part, device.type, segmenters[name].precision, batch, rounds, times.median, times.p95,
            memory=None if memory is None else memory.of(again), whole=part not in ("preprocess", "postprocess"),
        )  # fmt: skip


def _call_again(part: str, name: str, opener: Opener, image: np.ndarray, batch: int) -> Call:
    """One of the calls, prepared again in another process."""
    return calls_of(name, opener(), torch.from_numpy(image), batch)[part]
