"""Tests the CUDA kernels without a GPU: compiled for the CPU with emulation/cuda_runtime.h, they run the same tests.

This shows neither their speed nor races between threads that a device runs at once between two barriers.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch.utils.cpp_extension import include_paths

from yolact.version import OPERATOR_SCHEMA

EMULATION = ROOT / "tests" / "emulation"
BUILD = json.loads((ROOT / "csrc" / "ops" / "build.json").read_text())
DEFINITIONS = [f"-D{name}" for name in (*BUILD["definitions"], f"YOLACT_OPERATOR_SCHEMA={OPERATOR_SCHEMA}")]
FLAGS = [*BUILD["cxx_flags"], *DEFINITIONS, "-O2", "-fPIC", "-w"]  # -O2 compiles in less time
COMPILER = os.environ.get("CXX", "g++")
LAUNCH = re.compile(r"(\w+(?:<[\w, ]+>)?)<<<(.*?), kThreads, 0, ([^;]*?)>>>\(", re.DOTALL)
REPLACED = {
    "yolact, CUDA,": "yolact, CPU,",
    "torch::stable::accelerator::DeviceGuard": "emulation::DeviceGuard",
    "aoti_torch_get_current_cuda_stream": "emulation::current_stream",
    "STD_CUDA_CHECK": "static_cast<void>",
    "STD_CUDA_KERNEL_LAUNCH_CHECK": "cudaGetLastError",
}


def translate(source: str) -> str:
    """Translates CUDA C++ to C++."""
    source = LAUNCH.sub(r"emulation::launch(\2, kThreads, [](auto... given) { \1(given...); })(", source)
    assert "<<<" not in source
    for name, replacement in REPLACED.items():
        source = source.replace(name, replacement)
    return source


def build(folder: Path) -> Path:
    """Builds a library with all operators, in which the CUDA kernels serve the CPU."""
    shutil.copytree(ROOT / "csrc" / "ops", folder / "ops", ignore=shutil.ignore_patterns("cpu"))
    sources = [folder / "ops" / "library.cpp", EMULATION / "pack_convolution.cpp"]
    for path in sorted((folder / "ops" / "cuda").iterdir()):
        translated = path.with_suffix(".cpp") if path.suffix == ".cu" else path
        translated.write_text(translate(path.read_text()))
        if path.suffix == ".cu":
            sources.append(translated)
    includes = [f"-I{EMULATION}", f"-I{folder / 'ops'}", *(f"-isystem{path}" for path in include_paths())]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        command = [COMPILER, *FLAGS, *includes, "-c", str(source), "-o", str(target)]
        finished = subprocess.run(command, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr[:5000]
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compiled, sources)]
    library, torch_libraries = folder / "libyolact_ops.so", Path(torch.__file__).parent / "lib"
    linking = [f"-L{torch_libraries}", "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(library)]
    subprocess.run([COMPILER, "-shared", *objects, *linking], check=True)
    return library


@pytest.mark.skipif(sys.platform != "linux" or shutil.which(COMPILER) is None, reason="needs Linux and g++")
def test_kernels_equal_the_reference(tmp_path):
    compiled = build(tmp_path)
    package = tmp_path / "package" / "yolact"
    shutil.copytree(ROOT / "yolact", package, ignore=shutil.ignore_patterns("lib", "*.so", "__pycache__"))
    (package / "lib").mkdir()
    library = Path(shutil.copy(compiled, package / "lib"))

    def run(*arguments: str) -> str:
        # Runs in a folder with that package, so that Python imports it.
        finished = subprocess.run(
            [sys.executable, *arguments], cwd=package.parent, capture_output=True, text=True, timeout=600
        )
        assert finished.returncode == 0, finished.stdout[-5000:] + finished.stderr[-5000:]
        return finished.stdout

    assert run("-c", "from yolact.ops import _library; print(_library.PATH)").strip() == str(library)
    # The other tests take minutes.
    slow = "many_large or image6 or gradient and (grid0 or grid2) or crops_and_runs and image5"
    tests = [str(ROOT / "tests" / name) for name in ("test_ops.py", "test_convolution.py")]
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    report = run("-m", "pytest", "-q", *settings, *tests, "-k", f"cpu and not ({slow})")
    passed = re.search(r"(\d+) passed", report)
    assert passed is not None
    assert int(passed[1]) > 300
