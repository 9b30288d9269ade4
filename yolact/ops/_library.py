"""Loads the compiled operators, once, when `yolact.ops` is imported."""

from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent.parent
PATH = _PACKAGE / "_ops.abi3.so"
_BUILD = "python setup.py build_ext --inplace"
_NEWEST = "convolution"  # of the operators


def _load() -> bool:
    if not PATH.exists():
        raise ImportError(f"the compiled operators {PATH} are missing; build them: {_BUILD}")
    try:
        torch.ops.load_library(str(PATH))
    except OSError as error:
        raise ImportError(
            f"{PATH} does not load into torch {torch.__version__} (it needs 2.11 or newer): {error}; "
            f"build it again: {_BUILD}"
        ) from error
    if not hasattr(torch.ops.yolact, _NEWEST):
        raise ImportError(f"the compiled operators {PATH} are of an older yolact and lack {_NEWEST}; build: {_BUILD}")
    library = _PACKAGE / "_ops_cuda.abi3.so"
    if torch.version.cuda is None or not library.exists():
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise ImportError(
            f"{library} does not load into torch {torch.__version__} with CUDA {torch.version.cuda}: {error}; build it "
            f"with a toolkit of that major version, or without CUDA: YOLACT_CUDA=0 {_BUILD} (and delete that file)"
        ) from error
    return True


_cuda_ops = _load()


def cuda_ops_available() -> bool:
    """Whether the operators' CUDA kernels are built and loaded."""
    return _cuda_ops
