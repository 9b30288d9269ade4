"""Which precisions are slow where."""

import platform

import torch


def slow_training(precision: str, device: torch.device) -> str:
    """A warning if training in this precision takes much longer than in fp32, or ""."""
    if device.type != "cpu" or precision != "bf16" or not _is_x86():
        return ""
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return ""
    return (
        "warning: training in bf16 is slow on this processor, which has neither AVX512_BF16 nor AMX; on a similar one, "
        "a step took about seven times as long as in fp32: use fp32, or a GPU"
    )


def slow_inference(precision: str, device: torch.device) -> str:
    """A warning if a network of this precision takes much longer than one of fp32, or ""."""
    if device.type != "cpu" or precision != "fp16" or not _is_x86():
        return ""
    return (
        "warning: fp16 is slow on a CPU, where an image took more than ten times as long as in fp32: use fp32 or bf16"
    )


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
