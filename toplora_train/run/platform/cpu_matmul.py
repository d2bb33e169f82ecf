"""fp32 products on a CPU, by the library that is fast there.

torch multiplies fp32 matrices with MKL. On an AMD processor with AVX-512 (Zen 5) oneDNN, a part of
torch as well, took half the time or less (`benchmarks/products.py`). torch hands it fp32 products
only together with leave to round their factors to bf16, of which it made no use there. That is not
taken on trust: at every start, with the leave given, products are held against float64, and if a
factor was rounded the leave is withdrawn.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

log = logging.getLogger(__name__)

PRODUCTS: Any = getattr(torch.backends.mkldnn, "matmul", None)  # torch 2.9

# (rows, inner, columns): a decoding step, a short batch, a training batch, an adapter's narrow side
SHAPES = ((1, 576, 512), (48, 512, 576), (768, 576, 512), (512, 768, 8))

# Of the largest error of a product, in units of the square root of its inner dimension (the factors
# are standard normal): fp32 gives 2e-6 (MKL) or 5e-6 (oneDNN), factors of
# 11 bits (tf32) 1e-3, of 8 bits (bf16) 1e-2.
LARGEST_ERROR = 3e-5

# Attention is many small products, which oneDNN takes longer to begin than MKL to end; from so many
# places at once on they are large.
LONG = 256


def choose_matmul() -> bool:
    """Let oneDNN multiply fp32 matrices where MKL is slow; return whether it does.

    It depends on nothing but processor and torch, so that a run that is repeated or resumed on the
    machine is the same to the bit.
    """
    if PRODUCTS is None or not _mkl_is_slow():
        return False
    before, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "bf16"
    if largest_error() > LARGEST_ERROR:
        PRODUCTS.fp32_precision = before
        return False
    AttentionInterface.register("sdpa", _attend)
    log.info("fp32 products by oneDNN, whose errors here are fp32's; MKL is slow on this processor")
    return True


def largest_error() -> float:
    """How far fp32 products are from float64's, over ``SHAPES``; see ``LARGEST_ERROR``."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows, inner, columns in SHAPES:
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(columns, inner, generator=generator)
        exact = left.double() @ right.double().T
        error = (torch.nn.functional.linear(left, right) - exact).abs().max() / inner**0.5
        worst = max(worst, float(error))
    return worst


def _attend(module: nn.Module, query: Tensor, *others: Any, **how: Any) -> Any:
    """The attention of transformers, its products by MKL where they are small."""
    small = query.dtype == torch.float32 and query.shape[-2] < LONG
    if not small or torch.compiler.is_compiling():
        return sdpa_attention_forward(module, query, *others, **how)
    leave, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "ieee"
    try:
        return sdpa_attention_forward(module, query, *others, **how)
    finally:
        PRODUCTS.fp32_precision = leave


def _mkl_is_slow() -> bool:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    processor = Path("/proc/cpuinfo")
    return processor.is_file() and "AuthenticAMD" in processor.read_text(encoding="utf-8")
