"""Measures parts of the system against plain PyTorch in the same run. `yolact benchmark` measures a model.

    python scripts/benchmark.py                      # every part, on the CPU
    python scripts/benchmark.py network detector --device cuda --batch 1 8 32 --json figures.json

Our code and the plain version take turns, so that other work of the machine slows both equally. Look at the ratio of
the medians, not at the milliseconds. docs/benchmarks.md explains the parts and the columns.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from yolact.api import usable_device
from yolact.benchmark.measure import Floor, PeakMemory
from yolact.benchmark.parts import PARTS, Setting, measure
from yolact.benchmark.report import STANDARD_OUTPUT, Row, json_target, machine, print_report, write_json
from yolact.benchmark.training import loader, training
from yolact.config import list_models
from yolact.models.inference import PRECISIONS
from yolact.progress import progress_bar

Job = Callable[[], Iterable[Row]]
TRAINING_BATCH = 8
KNOWN = (*PARTS, "training", "loader")


def jobs(arguments: argparse.Namespace, device: torch.device, memory: PeakMemory | None) -> list[Job]:
    """The measurements that were asked for. Each call returns rows of the table."""
    gpu, floor, rounds = device.type == "cuda", Floor(device), arguments.rounds
    listed: list[Job] = []
    for part in arguments.parts or [part for part in KNOWN if part != "loader" or not gpu]:
        if part == "loader":
            listed.append(partial(loader, Setting(device, model=arguments.model), rounds))
            continue
        for precision in arguments.precision or ["fp32", "bf16", *(["fp16"] if gpu else [])]:
            if part == "training" and precision in ("fp32", "bf16"):  # fp16 would need scaled gradients
                setting = Setting(device, precision, TRAINING_BATCH, arguments.model)
                listed.append(partial(training, setting, rounds))
            for batch in arguments.batch:
                setting = Setting(device, precision, batch, arguments.model)
                lines = [line for line in PARTS.get(part, []) if line.only_on in (None, device.type)]
                listed += [partial(measure, line, setting, rounds, floor, memory) for line in lines]
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(KNOWN)}; by default all")
    parser.add_argument("--model", default="yolact_resnet50", choices=list_models(), metavar="PRESET")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="by default all that the device is fast in")
    batch_help = f"images of a call; always {TRAINING_BATCH} for training"
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help=batch_help)
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--no-memory", action="store_true", help="measure only times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file too; - for stdout")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(KNOWN):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; the parts are: {', '.join(KNOWN)}")
    if min(*arguments.batch, arguments.rounds, arguments.threads) < 1:
        parser.error("--batch, --rounds and --threads must be at least 1")

    device = usable_device(arguments.device)
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    facts, rows = machine(device), []
    with json_target(arguments.json) as target, PeakMemory(device) as memory, progress_bar() as progress:
        to_do = jobs(arguments, device, None if arguments.no_memory else memory)
        for job in progress.track(to_do, description="Measuring"):
            rows += job()
        write_json(target, facts, rows)
    print_report(facts, rows, to_stderr=arguments.json == STANDARD_OUTPUT)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark.py: {error}")
