"""Loads the compiled operators, once, when `yolact.ops` is imported."""

import sys
from pathlib import Path

import torch

from yolact.version import OPERATOR_SCHEMA

PATH = Path(__file__).resolve().parent.parent / "lib" / f"libyolact_ops.{'dylib' if sys.platform == 'darwin' else 'so'}"
_CUDA_PATH = PATH.with_name("libyolact_ops_cuda.so")
_BUILD = "python setup.py build_ext --inplace"


def _load_library(path: Path, version_operator: str, advice: str) -> None:
    """Loads a library and compares its schema number, which `version_operator` returns, with this package's.

    Raises:
        ImportError: if torch cannot load the library (the message then ends with `advice`), or if the numbers differ.
    """
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(f"torch {torch.__version__} cannot load {path}: {error}; {advice}") from error
    operator = getattr(torch.ops.yolact, version_operator, None)
    number = None if operator is None else operator()
    if number != OPERATOR_SCHEMA:
        raise ImportError(
            f"the compiled operators {path} belong to another version of yolact (schema number "
            f"{number or 'missing'}, this version needs {OPERATOR_SCHEMA}): build them again: {_BUILD}"
        )


def _load() -> bool:
    if not PATH.exists():
        raise ImportError(f"the compiled operators {PATH} are missing; build them: {_BUILD}")
    _load_library(PATH, "schema_version", f"it needs torch 2.11 or newer; build it again: {_BUILD}")
    if torch.version.cuda is None or not _CUDA_PATH.exists():
        return False
    _load_library(
        _CUDA_PATH,
        "cuda_schema_version",
        f"build it with a CUDA toolkit of the major version of CUDA {torch.version.cuda}, or remove it: "
        f"YOLACT_CUDA=0 {_BUILD}",
    )
    return True


_cuda_ops = _load()


def cuda_ops_available() -> bool:
    """Whether the operators' CUDA kernels are built and loaded."""
    return _cuda_ops
