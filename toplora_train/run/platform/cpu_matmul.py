"""Choose the faster library for fp32 matrix multiplication on a CPU.

torch multiplies fp32 matrices with MKL. On an AMD processor with AVX-512 (Zen 5), oneDNN, also part
of torch, took half the time or less (`benchmarks/products.py`). torch uses it for fp32 only if it
may also round the inputs to bf16, which oneDNN did not do there. This is checked rather than
trusted: at every start, products with that permission are compared with float64, and if inputs were
rounded the permission is withdrawn.
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

# (rows, inner, columns): a decoding step, a short batch, a training batch, an adapter's rank
SHAPES = ((1, 576, 512), (48, 512, 576), (768, 576, 512), (512, 768, 8))

# The bound on a product's error, divided by the square root of the inner dimension (inputs are
# standard normal): fp32 gives 2e-6 (MKL) or 5e-6 (oneDNN), inputs of 11 bits (tf32) 1e-3, of 8 bits
# (bf16) 1e-2.
LARGEST_ERROR = 3e-5

# Attention is many small products, for which oneDNN's overhead exceeds MKL's whole time; from this
# query length on they are large.
LONG = 256


def choose_matmul() -> bool:
    """Use oneDNN for fp32 products where MKL is slow; return whether it is used.

    The choice depends only on the processor and torch, so repeated and resumed runs on a machine
    are bitwise identical.
    """
    if PRODUCTS is None or not _mkl_is_slow():
        return False
    before, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "bf16"
    if largest_error() > LARGEST_ERROR:
        PRODUCTS.fp32_precision = before
        return False
    AttentionInterface.register("sdpa", _attend)
    log.info("using oneDNN for fp32 products, verified as exact; MKL is slow on this processor")
    return True


def largest_error() -> float:
    """The largest error of fp32 products over ``SHAPES`` against float64; see ``LARGEST_ERROR``."""
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
    """The attention of transformers, with MKL for small products."""
    small = query.dtype == torch.float32 and query.shape[-2] < LONG
    if not small or torch.compiler.is_compiling():
        return sdpa_attention_forward(module, query, *others, **how)
    before, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "ieee"
    try:
        return sdpa_attention_forward(module, query, *others, **how)
    finally:
        PRODUCTS.fp32_precision = before


def _mkl_is_slow() -> bool:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    processor = Path("/proc/cpuinfo")
    return processor.is_file() and "AuthenticAMD" in processor.read_text(encoding="utf-8")
