"""Fixtures that several test modules share."""

import copy
import functools
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import yolact
from yolact.benchmark import deterministic
from yolact.benchmark.untrained import untrained_detector
from yolact.config import get_preset
from yolact.models.yolact import Yolact

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "tests" / "parity"
PHOTOS = [
    ROOT / "yolact" / "assets" / "coffee.jpg",
    ROOT / "tests" / "photos" / "astronaut.jpg",
    ROOT / "tests" / "photos" / "cat.png",
]
PROGRAM = ROOT / "build" / "cmake" / "bin" / "yolact-segment"

# A bare machine with a GPU may not have pycocotools.
if importlib.util.find_spec("pycocotools") is None:
    collect_ignore = [
        "test_annotations.py", "test_bundled.py", "test_cli.py", "test_data.py", "test_evaluation.py", "test_files.py",
        "test_memory.py", "test_prediction.py", "test_runtime.py", "test_segmenters.py", "test_training.py",
        "test_visualize.py", "test_walk.py",
    ]  # fmt: skip

# Names of classes that are not ASCII.
CAPTIONS = {
    "Cyrillic": "Собака",
    "Greek": "Γάτα",
    "Chinese": "小型犬",
    "Japanese": "ネコ ねこ",
    "Korean": "고양이",
    "Korean, decomposed": "\u1112\u1161\u11ab",
    "Arabic": "قطة صغيرة",
    "Arabic with vowels": "كِتَابٌ",
    "Arabic ligature": "السلام لا",
    "Persian": "می\u200cخواهم",
    "Hebrew": "חתול (גדול) 3.5",
    "Hebrew with points": "כֶּלֶב dog",
    "Latin, then Hebrew": "dog (כלב 12) 7",
    "Devanagari": "बिल्ली",
    "Thai": "ที่ น้ำ",
    "accents": "café Đặng",
    "accents, decomposed": "cafe\u0301 e\u0323\u0302 x\u0301\u0302",
    "emoji": "🐱 ☺\ufe0f",
    "enclosed": "1\u20e3 a\u20dd",
    "controls": "é\n\t\x02\x7f\u200b\u202e\u00ad.",
    "unassigned": "\u0378\ue000\uffff",
    "only marks": "\u0301\u0302",
    "invisible": "\u200b",
    "ends in ZWJ": "ب\u200d",
    "long": "猫" * 100,
}

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available() and yolact.ops.cuda_ops_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device, or operators built without CUDA"))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture
def two_threads():
    """Lets operators use two threads, where the whole run has one a process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `yolact` with arguments and returns its exit code, standard output and standard error."""
    from yolact import cli  # needs pycocotools

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["yolact", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


def layout_of(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint."""
    return {key: tuple(shape) for key, shape in json.loads((PARITY / "layouts" / f"{name}.json").read_text()).items()}


def recorded_state(layout: str, score_gain: float = 3.0) -> dict[str, torch.Tensor]:
    """A checkpoint with a published layout and the values that were used for the recordings."""
    shapes = layout_of(layout)
    return {name: torch.from_numpy(deterministic.tensor(name, shape, score_gain)) for name, shape in shapes.items()}


def recording(name: str) -> dict[str, np.ndarray]:
    with np.load(PARITY / f"{name}.npz") as file:
        return dict(file)


def small_model(preset: str = "yolact_resnet50", image_size: int = 160) -> Yolact:
    """A preset's network made for a smaller image, with random weights, which are the same in every call."""
    return copy.deepcopy(_small_model(preset, image_size))


def small_untrained(preset: str = "yolact_resnet50", image_size: int = 160) -> yolact.Detector:
    """A detector with such a network and deterministic weights."""
    return copy.deepcopy(_small_untrained(preset, image_size))


# Random weights take a second, a copy a tenth of it.
@functools.lru_cache(maxsize=4)
def _small_model(preset: str, image_size: int) -> Yolact:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Yolact(replace(get_preset(preset), image_size=image_size)).eval()


@functools.lru_cache(maxsize=4)
def _small_untrained(preset: str, image_size: int) -> yolact.Detector:
    return untrained_detector(small_model(preset, image_size))


@pytest.fixture(scope="session")
def small_detector() -> yolact.Detector:
    """Deterministic weights, 160 pixels. Tests must leave its thresholds as they were."""
    return small_untrained()


@pytest.fixture(scope="session")
def small_export(small_detector, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "small.pt"
    yolact.export(small_detector, path)
    return path
