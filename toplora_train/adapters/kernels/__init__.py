"""Triton kernels for the adapters' narrow products on a CUDA device.

On a GPU an adapter costs passes over x ``(T, n)`` and kernel launches; each kernel here is one
launch that reads x once. :mod:`gate` weights the r-wide product, :mod:`projection` multiplies with
x under dropout, whose mask :mod:`dropout` recomputes wherever it is needed.

Triton is imported by those modules only: import them where :func:`available` is true and nowhere
else, so that a machine without a GPU never loads it.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_RANK = 256


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _capable(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def blocks(size: int, tile: int) -> int:
    """How many tiles cover ``size``. Triton's own function takes as long as a small operation."""
    return -(-size // tile)


def available(x: Tensor) -> bool:
    """Whether the kernels can compute with x, ``(..., n)``.

    True for bfloat16, float16 and float32 on a CUDA device of compute capability 8.0 or higher with
    Triton installed; on a CPU only in Triton's interpreter (``TRITON_INTERPRET=1``), for tests.
    """
    if x.dtype not in DTYPES:
        return False
    if x.device.type == "cuda":
        return _capable(x.device) and _installed()
    return x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1" and _installed()
