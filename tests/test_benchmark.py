"""Tests what the benchmark calls and reports. No test asserts a time."""

import importlib.util
import json
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import DEVICES, ROOT

from yolact import ops
from yolact.benchmark.measure import Floor, PeakMemory, Times, Work, take_turns
from yolact.benchmark.parts import PARTS, Setting, area, likely_predictions, measure, operators
from yolact.benchmark.report import Row, json_target, machine, print_report, write_json
from yolact.benchmark.training import training
from yolact.models import detector as detector_module
from yolact.ops import reference

CPU = torch.device("cpu")
SMALL = "yolact_shapes"


def row(**others) -> Row:
    return Row(
        **{"part": "p", "device": "cpu", "precision": "", "batch": 4, "rounds": 1, "median": 2.0, "p95": 3.0, **others}
    )


def test_calls_take_turns():
    order: list[str] = []
    calls = {name: partial(order.append, name) for name in ("a", "b")}
    times = take_turns(calls, CPU, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert list(times) == ["a", "b"]
    assert all(0 < result.median <= result.p95 for result in times.values())


def test_median_and_p95():
    assert Times.of([float(value) for value in range(101)]) == Times(50.0, 95.0)
    assert Times.of([7.0]) == Times(7.0, 7.0)


def zeros(count: int, device: torch.device):
    return lambda: torch.zeros(count, dtype=torch.uint8, device=device).add(1)


@pytest.mark.parametrize("device", DEVICES)
def test_peak_memory_is_what_a_call_adds(device):
    """The peak includes the zeros and what is added to them, but nothing that was there before."""
    device = torch.device(device)
    with PeakMemory(device) as memory:
        large, small = (memory.of(partial(zeros, mib * 2**20, device)) for mib in (64, 8))
    assert large == pytest.approx(128, abs=2)
    assert small == pytest.approx(16, abs=2)


def test_the_floor_grows_with_the_work():
    floor = Floor(CPU)
    flops = floor.milliseconds(Work(flops=1e9), torch.float32)
    assert floor.milliseconds(Work(flops=3e9), torch.float32) == pytest.approx(3 * flops)
    moved = floor.milliseconds(Work(bytes=2**24), torch.float32)
    assert floor.milliseconds(Work(flops=1e9, bytes=2**24), torch.float32) == pytest.approx(flops + moved)
    assert floor.milliseconds(Work(), torch.float32) == 0 < moved


def test_what_follows_from_a_row():
    result = row(plain=5.0, floor=0.5, whole=True)
    assert (result.ratio, result.share_of_floor, result.images_per_second) == (2.5, 0.25, 2000.0)
    assert (row().ratio, row().share_of_floor, row().images_per_second) == (None, None, None)


def test_the_table_leaves_out_what_nobody_fills(capsys):
    print_report(machine(CPU), [row(part="a part of a name that no terminal of eighty columns has room for"), row()])
    said, heading, first, _ = capsys.readouterr().out.splitlines()
    assert torch.__version__ in said
    assert heading.split("  ")[0] == "part"
    assert "batch" in heading
    assert "median ms" in heading
    for absent in ("precision", "ratio", "MiB", "floor", "images/s"):
        assert absent not in heading
    assert first.startswith("a part of a name that no terminal of eighty columns has room for  cpu")
    assert first.split()[-3:] == ["4", "2.00", "3.00"]


def test_json_is_written_whole_or_to_stdout(tmp_path, capsys):
    file = tmp_path / "figures.json"
    for path in (file, None, Path("-")):
        with json_target(path) as target:
            assert not file.exists() or path != file
            write_json(target, machine(CPU), [row(plain=4.0)])
    printed = capsys.readouterr().out
    assert file.read_text() == printed
    content = json.loads(printed)
    assert content["machine"]["torch"] == torch.__version__
    assert content["results"][0]["ratio"] == 2.0
    with pytest.raises(FileNotFoundError, match="create it first"), json_target(tmp_path / "none" / "x.json"):
        pass


def differ(ours, plain) -> float:
    """The share of unequal values in two results of a part, which are tensors or sequences of tensors."""
    if isinstance(ours, torch.Tensor):
        return (ours != plain).float().mean().item() if ours.numel() else 0.0
    return max(differ(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("part", ["assemble_masks", "fast_nms", "detect", "crop", "postprocess"])
def test_both_sides_compute_the_same(part, device):
    setting = Setting(torch.device(device), batch=2, model=SMALL)
    for line in PARTS[part][:2]:
        comparison = line.build(setting)
        assert comparison.work.bytes > 0
        ours, plain = comparison.ours(), comparison.plain()
        if part == "detect":  # the order of equal scores depends on the last bit
            ours, plain = ours[1], plain[1]
            torch.testing.assert_close(ours, plain)
        else:
            if part == "postprocess":
                ours, plain = ([detections.masks for detections in side] for side in (ours, plain))
                assert all(len(masks) == 100 for masks in ours)
            assert differ(ours, plain) < 1e-3, line.name


def test_both_networks_predict_the_same():
    comparison = PARTS["network"][0].build(Setting(CPU, model=SMALL))
    for ours, plain in zip(comparison.ours(), comparison.plain(), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-3 * plain.abs().max().item(), rtol=0)
    assert comparison.work.flops > 1e8


@pytest.mark.parametrize(
    ("device", "part"), [("cpu", 0), *(pytest.param("cuda", part, marks=pytest.mark.cuda) for part in (0, 1))]
)
def test_both_detectors_find_the_same(device, part):
    comparison = PARTS["detector"][part].build(Setting(torch.device(device), batch=2, model=SMALL))
    for ours, plain in zip(comparison.ours(), comparison.plain(), strict=True):
        assert len(ours.labels) == 100
        torch.testing.assert_close(ours.scores, plain.scores)
        assert ours.masks.shape == plain.masks.shape == (100, 480, 640)


def test_ours_computes_in_its_precision_and_plain_in_float32():
    comparison = PARTS["network"][0].build(Setting(CPU, "bf16", model=SMALL))
    assert {values.dtype for values in comparison.ours()} == {torch.bfloat16}
    assert {values.dtype for values in comparison.plain()} == {torch.float32}


def test_likely_predictions_are_like_a_trained_networks(small_detector):
    predictions = likely_predictions(small_detector, Setting(CPU, batch=2))
    best = predictions.logits.softmax(dim=2)[:, :, 1:].amax(dim=2)
    candidates = (best > small_detector.candidate_threshold).sum(dim=1)
    assert ((candidates > 100) & (candidates < 500)).all()
    results = small_detector.postprocess(predictions, [(48, 64), (32, 32)])
    assert [len(detections.labels) for detections in results] == [100, 100]
    sides = (results[0].boxes[:, 2:] - results[0].boxes[:, :2]).amax(dim=1)
    assert sides.min() < 10 < 30 < sides.max()


def test_the_part_without_masks_makes_none(monkeypatch):
    def refuse(*_):
        raise AssertionError("masks are assembled")

    comparison = PARTS["rest"][0].build(Setting(CPU, model=SMALL))
    monkeypatch.setattr(detector_module, "assemble_masks", refuse)
    comparison.ours()
    with pytest.raises(AssertionError, match="masks are assembled"):
        PARTS["postprocess"][0].build(Setting(CPU, model=SMALL)).ours()


def test_a_detector_has_its_own_operators_again():
    with operators(detect=reference.detect):
        assert detector_module.detect is reference.detect
    assert detector_module.detect is ops.detect


def test_a_row_of_a_part():
    setting = Setting(CPU, "fp32", batch=1, model=SMALL)
    with PeakMemory(CPU) as memory:
        (result,) = measure(PARTS["detector"][0], setting, 1, Floor(CPU), memory)
    assert (result.part, result.device, result.precision, result.batch) == (
        "from pixels to masks, 640×480", "cpu", "fp32", 1,
    )  # fmt: skip
    assert min(result.ratio, result.share_of_floor, result.images_per_second) > 0
    assert result.memory > 100 * 480 * 640 / 2**20 - 1  # at least the masks


def test_training_has_a_row_a_stage():
    rows = list(training(Setting(CPU, batch=1, model=SMALL), rounds=1))
    stages = [result.part.partition(": ")[2].partition(",")[0] for result in rows]
    if importlib.util.find_spec("pycocotools"):
        assert stages[0] == "data"
        assert rows.pop(0).median > 0
        del stages[0]
    assert stages == ["forward", "loss", "backward", "optimizer", "step"]
    assert sum(result.median for result in rows[:-1]) == pytest.approx(rows[-1].median)


def test_areas_within_the_image():
    assert area(torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, -1.0, 2.0, 2.0]])) == pytest.approx(0.75)


def test_the_script(tmp_path, monkeypatch, capsys):
    """Arguments, table and JSON of the cheapest part, as scripts/gpu_check.sh calls it."""
    figures, path = tmp_path / "figures.json", ROOT / "scripts" / "benchmark.py"

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")

    run("crop", "--batch", 1, 2, "--rounds", 2, "--no-memory", "--json", figures)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert len(printed.out.splitlines()) == 2 + 2 * 2 * 2
    results = json.loads(figures.read_text())["results"]
    assert {(result["precision"], result["batch"]) for result in results} == {
        (precision, batch) for precision in ("fp32", "bf16") for batch in (1, 2)
    }
    for wrong, message in (
        (["network49"], "no part is called network49"),
        (["crop", "--json", tmp_path / "none" / "x.json"], "create it first"),
    ):
        with pytest.raises(SystemExit) as caught:
            run(*wrong)
        assert message in f"{caught.value.code}{capsys.readouterr().err}"
