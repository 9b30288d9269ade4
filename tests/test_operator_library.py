"""An operator library of another version is refused with one sentence, in Python and in C++."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PHOTOS, PROGRAM, ROOT
from torch.utils.cpp_extension import include_paths

from yolact.version import OPERATOR_SCHEMA, __version__

OPS = ROOT / "csrc" / "ops"
BUILD = json.loads((OPS / "build.json").read_text())
COMPILER = os.environ.get("CXX", "g++")
BEFORE_NUMBERS = """
#include <torch/csrc/stable/library.h>
STABLE_TORCH_LIBRARY(yolact, m) { m.def("crop(Tensor masks, Tensor boxes, int padding=1) -> Tensor"); }
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(COMPILER) is None, reason="needs Linux and a C++ compiler"
)


def compile_library(source: Path, folder: Path, *options: str) -> Path:
    """libyolact_ops.so from one file, with the flags of the real one."""
    flags = [*BUILD["cxx_flags"], *(f"-D{name}" for name in BUILD["definitions"]), *options, "-O0", "-fPIC", "-shared"]
    includes = [f"-isystem{path}" for path in include_paths()]
    library = folder / "libyolact_ops.so"
    linking = [f"-Wl,-soname,{library.name}", f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run([COMPILER, *flags, *includes, str(source), "-o", str(library), *linking], check=True)
    return library


@pytest.fixture(scope="module", params=["another number", "no number"])
def other_library(request, tmp_path_factory) -> tuple[Path, str]:
    """A library of operators of another version, and how the messages describe its schema number."""
    folder = tmp_path_factory.mktemp("other")
    if request.param == "no number":
        source = folder / "before_numbers.cpp"
        source.write_text(BEFORE_NUMBERS)
        return compile_library(source, folder), "schema number missing"
    number = OPERATOR_SCHEMA + 1
    library = compile_library(OPS / "library.cpp", folder, f"-DYOLACT_OPERATOR_SCHEMA={number}")
    return library, f"schema number {number}"


def test_python_refuses_another_version(other_library, tmp_path):
    library, number = other_library
    package = tmp_path / "yolact"
    shutil.copytree(ROOT / "yolact", package, ignore=shutil.ignore_patterns("lib", "*.so", "__pycache__"))
    (package / "lib").mkdir()
    shutil.copy(library, package / "lib")
    finished = subprocess.run([sys.executable, "-c", "import yolact"], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode != 0
    assert finished.stderr.splitlines()[-1] == (
        f"ImportError: the compiled operators {package / 'lib' / library.name} belong to another version of yolact "
        f"({number}, this version needs {OPERATOR_SCHEMA}): build them again: python setup.py build_ext --inplace"
    )


@pytest.mark.skipif(not PROGRAM.exists(), reason="the C++ side is not built: make cpp")
def test_the_program_refuses_another_version(other_library, small_export, tmp_path):
    library, number = other_library
    finished = subprocess.run(
        [str(PROGRAM), str(small_export), str(PHOTOS[2]), "-o", str(tmp_path)],
        env={**os.environ, "LD_LIBRARY_PATH": str(library.parent)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1
    assert len(finished.stderr.splitlines()) == 1
    assert f"{library} belongs to another version of yolact ({number}, this version needs" in finished.stderr
    assert f"{OPERATOR_SCHEMA}): replace it with the {library.name} of yolact {__version__}" in finished.stderr


@pytest.mark.skipif(not PROGRAM.exists(), reason="the C++ side is not built: make cpp")
@pytest.mark.parametrize("first", ["yolact", "_runtime"])
def test_python_and_the_runtime_share_one_library(first):
    """The order of import does not matter. Registering the operators twice would end the process."""
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "yolact")!r})
sys.path.insert(0, {str(ROOT)!r})
import {first}, yolact, _runtime
lines = Path("/proc/self/maps").read_text().splitlines()
print(*sorted({{line.split()[-1] for line in lines if "libyolact_ops.so" in line}}))
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [str(ROOT / "yolact" / "lib" / "libyolact_ops.so")]
