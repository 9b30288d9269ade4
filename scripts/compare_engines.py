"""Compares the speed of a preset's network with that of other engines on the CPU. All take turns in one run.

    pip install onnx onnxscript onnxruntime openvino
    python scripts/compare_engines.py                       # yolact_resnet50
    python scripts/compare_engines.py yolact_base --rounds 30

The other engines run the plain network as ONNX, with as many threads as torch. Before the timing, their results are
compared with torch's.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from torch import Tensor, nn

from yolact.benchmark.measure import Call, take_turns
from yolact.benchmark.report import Row, machine, print_report
from yolact.benchmark.untrained import untrained_detector
from yolact.config import list_models
from yolact.models.yolact import Yolact, build_model

CPU = torch.device("cpu")


class Tuple(nn.Module):
    """The network with a plain tuple as its result, which the ONNX export needs."""

    def __init__(self, model: Yolact):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images))


def engines(path: str, images: np.ndarray) -> Iterator[tuple[str, str, Call]]:
    """The name, precision and call of each other engine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}
    yield f"ONNX Runtime {onnxruntime.__version__}", "fp32", lambda: session.run(None, feed)
    for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        version = openvino.__version__.partition("-")[0]
        yield f"OpenVINO {version}", precision, lambda request=request: list(request.infer([images]).values())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="yolact_resnet50", choices=list_models(), metavar="PRESET")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    detector = untrained_detector(build_model(arguments.model))
    size = detector.image_size
    images = torch.randn(1, 3, size, size)
    calls: dict[tuple[str, str], Call] = {("torch, eager", "fp32"): lambda: detector.model(images)}
    for precision in ("fp32", "bf16"):
        ours = detector.optimize(precision)
        calls["yolact", precision] = lambda ours=ours: ours.model(images)
    expected = detector.model(images)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "network.onnx"))
        torch.onnx.export(Tuple(detector.model), (images,), path, dynamo=True, verbose=False)
        for name, precision, call in engines(path, images.numpy()):
            for a, b in zip(expected, call(), strict=True):
                difference = (a - torch.from_numpy(np.array(b))).abs().max() / a.abs().max()
                print(f"{name} {precision}: differs from torch by at most {difference:.1e} of the largest value")
            calls[name, precision] = call
        times = take_turns({" ".join(key): call for key, call in calls.items()}, CPU, arguments.rounds)
    plain = times["torch, eager fp32"].median
    rows = [
        Row(name, "cpu", precision, 1, arguments.rounds, measured.median, measured.p95, plain)
        for (name, precision), measured in zip(calls, times.values(), strict=True)
    ]
    print_report(machine(CPU), rows)


if __name__ == "__main__":
    main()
