"""Builds the operator libraries `yolact/lib/libyolact_ops.so` and, with CUDA, `yolact/lib/libyolact_ops_cuda.so`.

They use LibTorch's stable ABI and no Python, so the same files serve Python, the C++ runtime and every torch from 2.11
on. `csrc/ops/build.json` names their sources and flags; CMake reads it too.

`YOLACT_CUDA` unset builds for CUDA only where nvcc, a torch with CUDA and a CUDA device are; 1 does not ask for the
device, 0 builds for the CPU only. `TORCH_CUDA_ARCH_LIST` names other architectures than those of `build.json`.
"""

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from setuptools import Extension, setup


def name_cuda_home() -> None:
    """Sets CUDA_HOME to the toolkit that the nvcc on PATH itself reports.

    Left to itself, torch takes the folder above nvcc, which holds no toolkit where that nvcc is a link or a script.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    command = [Path(nvcc).resolve(), "--dryrun", "-x", "cu", os.devnull]
    plan = subprocess.run(command, capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
    if top and Path(top[1], "bin", "nvcc").exists():
        os.environ["CUDA_HOME"] = str(Path(top[1]).resolve())


name_cuda_home()  # before torch looks for it, which it does on import
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension  # noqa: E402

MACOS = sys.platform == "darwin"
SUFFIX = ".dylib" if MACOS else ".so"
OPS = Path("csrc/ops")
LIBRARIES = Path("yolact/lib")
BUILD = json.loads((OPS / "build.json").read_text())
SCHEMA = runpy.run_path("yolact/version.py")["OPERATOR_SCHEMA"]
CHOICE = os.environ.get("YOLACT_CUDA", "")


def reason_against_cuda() -> str:
    """Why the CUDA library is not built; empty if it is."""
    if CHOICE not in ("", "0", "1"):
        raise SystemExit(
            f"YOLACT_CUDA={CHOICE!r}: give 0 (CPU only) or 1 (with CUDA), or leave it unset to decide by what is there"
        )
    if CHOICE == "0":
        return "YOLACT_CUDA=0"
    reason = ""
    if CUDA_HOME is None or not Path(CUDA_HOME, "bin", "nvcc").exists():
        reason = "no nvcc was found; install a CUDA toolkit or set CUDA_HOME to it"
    elif torch.version.cuda is None:
        reason = f"torch {torch.__version__} is a build without CUDA; install one with CUDA"
    elif CHOICE == "" and not torch.cuda.is_available():
        reason = "there is no CUDA device; YOLACT_CUDA=1 adds CUDA all the same"
    if reason and CHOICE == "1":
        raise SystemExit(f"YOLACT_CUDA=1, but {reason}")
    return reason


def sources(kind: str) -> list[str]:
    return sorted(path.as_posix() for pattern in BUILD[f"{kind}_sources"] for path in OPS.glob(pattern))


def source_hash() -> str:
    """A hash of everything that the libraries are built from; cmake/YolactOps.cmake computes the same one."""
    text = f"{SCHEMA}\n"
    for name in sorted(path.as_posix() for path in OPS.rglob("*") if path.is_file()):
        text += f"{name} {hashlib.sha256(Path(name).read_bytes()).hexdigest()}\n"
    return hashlib.sha256(text.encode()).hexdigest()


def operator_library(kind: str, name: str, extension: Callable[..., Extension]) -> Extension:
    definitions = [f"-D{definition}" for definition in (*BUILD["definitions"], f"YOLACT_OPERATOR_SCHEMA={SCHEMA}")]
    cuda_definitions = [f"-D{definition}" for definition in BUILD["cuda_definitions"]]
    own_folder, name_option = ("@loader_path", "-install_name,@rpath/") if MACOS else ("$ORIGIN", "-soname,")
    library = extension(
        f"yolact.lib.{name}",
        sources(kind),
        extra_compile_args={
            "cxx": BUILD["cxx_flags"] + definitions,
            "nvcc": BUILD["nvcc_flags"] + definitions + cuda_definitions,
        },
        extra_link_args=[*BUILD["link_flags"], f"-Wl,{name_option}{name}{SUFFIX}"],
        # The second is where torch is when a package manager has installed both.
        runtime_library_dirs=[own_folder, f"{own_folder}/../../torch/lib"],
        depends=["yolact/version.py", *(path.as_posix() for path in OPS.rglob("*") if path.is_file())],
        py_limited_api=True,
    )
    # libtorch itself holds nothing: some linkers would keep it, and the C++ programs do not look for it. A LibTorch may
    # have a libcudart of its own under another name.
    names = [name for name in library.libraries if name != "torch"]
    library.libraries = ["cudart_static" if name == "cudart" else name for name in names]
    return library


class BuildOperators(BuildExtension):
    """Names the libraries as C++ does. In the source tree it builds only those that are not of today's sources.

    Beside each library lies a file that says what it was built from, with `source_hash` in the first line.
    """

    def get_ext_filename(self, ext_name: str) -> str:
        return str(Path(*ext_name.split("."))) + SUFFIX

    def origin(self, library: Extension) -> tuple[Path, str]:
        path = Path(self.get_ext_fullpath(library.name)).with_suffix(".origin")
        target = f"CUDA {torch.version.cuda}, {os.environ['TORCH_CUDA_ARCH_LIST']}" if "cuda" in path.stem else "CPU"
        return path, f"{source_hash()}\n{target}\n"

    def is_built(self, library: Extension) -> bool:
        path, text = self.origin(library)
        return path.with_suffix(SUFFIX).exists() and path.exists() and path.read_text() == text

    def build_extension(self, ext: Extension) -> None:
        if MACOS:  # Python's own extensions are bundles, which no program can be linked to
            for linker in ("linker_so", "linker_so_cxx"):  # older versions of setuptools have only the first
                words = getattr(self.compiler, linker, [])
                setattr(self.compiler, linker, ["-dynamiclib" if word == "-bundle" else word for word in words])
        super().build_extension(ext)

    def run(self) -> None:
        print(f"yolact: operators for the CPU{f' only: {against_cuda}' if against_cuda else ' and CUDA'}")
        if self.inplace:
            LIBRARIES.mkdir(exist_ok=True)
            self.extensions = [library for library in self.extensions if not self.is_built(library)]
            if against_cuda:
                remove_old_cuda_library()
        super().run()
        for library in self.extensions:
            path, text = self.origin(library)
            path.write_text(text)


def remove_old_cuda_library() -> None:
    """Of other sources than the CPU library it would only fail."""
    origin = LIBRARIES / "libyolact_ops_cuda.origin"
    if CHOICE == "0" or not origin.exists() or not origin.read_text().startswith(source_hash()):
        origin.unlink(missing_ok=True)
        origin.with_suffix(SUFFIX).unlink(missing_ok=True)


against_cuda = reason_against_cuda()
libraries = [operator_library("cpu", "libyolact_ops", CppExtension)]
if not against_cuda:
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(BUILD["cuda_architectures"]))
    libraries.append(operator_library("cuda", "libyolact_ops_cuda", CUDAExtension))

setup(
    ext_modules=libraries,
    cmdclass={"build_ext": BuildOperators},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
