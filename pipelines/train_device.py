"""What does the trainer compute on, and how precisely?

Imports torch, so it is imported inside functions only.
"""

from __future__ import annotations

import os
import platform

import torch
from winnow.pipelines.train_settings import TrainInputError


def chosen(wanted: str) -> torch.device:
    """auto (a GPU where there is one), cpu or cuda. Raises TrainInputError."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise TrainInputError(f"device must be auto, cpu or cuda, not {wanted!r}")
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise TrainInputError("torch sees no CUDA device here")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where matrices of it are multiplied in hardware."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, test, bool)() for test in tests)
    return torch.bfloat16 if native else torch.float32


def described(device: torch.device) -> str:
    """What a result was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} CPUs"
