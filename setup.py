"""Builds the operator libraries `yolact/_ops.abi3.so` and, with CUDA, `yolact/_ops_cuda.abi3.so`.

They use LibTorch's stable ABI and no Python, so one binary serves Python, LibTorch and every torch from 2.11 on.
YOLACT_CUDA=0 or 1 forces the choice; TORCH_CUDA_ARCH_LIST names the architectures.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import torch
from setuptools import setup


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

OPS = Path("csrc/ops")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
HEADERS = sorted(str(path) for path in OPS.rglob("*.h")) + sorted(str(path) for path in OPS.rglob("*.cuh"))


def cuda_wanted() -> bool:
    choice = os.environ.get("YOLACT_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(
            f"YOLACT_CUDA={choice!r}: give 0 (CPU only) or 1 (with CUDA), or leave it unset to decide by what is there"
        )
    nvcc = CUDA_HOME is not None and Path(CUDA_HOME, "bin", "nvcc").exists()
    if choice == "1" and not nvcc:
        raise SystemExit("YOLACT_CUDA=1, but no nvcc was found; install a CUDA toolkit or set CUDA_HOME to it")
    if choice == "1" and torch.version.cuda is None:
        raise SystemExit(f"YOLACT_CUDA=1, but torch {torch.__version__} is a build without CUDA; install one with it")
    return choice == "1" or (choice == "" and nvcc and torch.version.cuda is not None)


cpp_flags = ["-O3", "-std=c++20", "-fopenmp-simd", "-ffp-contract=off", "-fvisibility=hidden", STABLE_ABI]
extensions = [
    CppExtension(
        "yolact._ops",
        [str(OPS / "library.cpp"), *sorted(str(path) for path in (OPS / "cpu").glob("*.cpp"))],
        extra_compile_args={"cxx": cpp_flags},
        depends=HEADERS,
        py_limited_api=True,
    )
]
if cuda_wanted():
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    extensions.append(
        CUDAExtension(
            "yolact._ops_cuda",
            sorted(str(path) for path in (OPS / "cuda").glob("*.cu")),
            extra_compile_args={
                "cxx": cpp_flags,
                "nvcc": ["-O3", "-std=c++20", "-DUSE_CUDA", STABLE_ABI],
            },
            depends=HEADERS,
            py_limited_api=True,
        )
    )
    print(f"yolact: building the operators for CPU and CUDA ({os.environ['TORCH_CUDA_ARCH_LIST']}) with {CUDA_HOME}")
else:
    print("yolact: building the operators for the CPU only (YOLACT_CUDA=1 with a CUDA toolkit adds CUDA)")

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
