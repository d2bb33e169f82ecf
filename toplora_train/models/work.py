"""The FLOPs of a run, from shapes alone, and a device's measured speed."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import torch

MEASURE_SECONDS = 0.2  # short, as a plan should be fast


def training_flops(
    lengths: Sequence[int],
    *,
    supervised: int,
    body: int,
    hidden: int,
    layers: int,
    vocabulary: int,
    activation_checkpointing: bool,
) -> float:
    r"""Floating-point operations of the matrix products of training an adapter.

    A frozen weight takes two operations per token in the forward pass and two in the backward pass,
    for its input's gradient only. With ``N`` weights in the layers, ``L`` layers of width ``d``, a
    vocabulary of ``V``, rows of ``t`` tokens and ``s`` supervised positions in total,

    .. math:: \sum_t (4 N t + 6 L d t^2) + 4 V d s

    where the causal mask halves attention. Activation checkpointing adds a forward pass of the
    layers. The adapter itself (a few per cent) and padding are not counted.

    Args:
        lengths: Tokens of every row, repeated as often as it is trained on.
        supervised: Positions whose logits are computed, over all rows.
        body: Weights of the base model without embeddings.
        hidden: Its hidden size.
        layers: Its number of layers.
        vocabulary: Its vocabulary size.
        activation_checkpointing: Whether layers are recomputed.
    """
    passes = 3 if activation_checkpointing else 2
    dense = 2.0 * passes * body * sum(lengths)
    attention = 2.0 * (passes + 1) * layers * hidden * sum(length**2 for length in lengths)
    return dense + attention + 4.0 * vocabulary * hidden * supervised


@functools.cache
def product_speed(device: torch.device, dtype: torch.dtype, *, tokens: int, hidden: int) -> float:
    """Peak FLOP/s of ``(tokens, hidden) @ (hidden, 4 hidden)``, measured on a device.

    An upper bound for training, measured once, so that the plans of a study's methods agree. The
    number of tokens grows from one, as a processor without native support for ``dtype`` would take
    an hour for all of them.
    """
    right = torch.ones(hidden, 4 * hidden, device=device, dtype=dtype)
    best, rows = 0.0, 1
    until = time.perf_counter() + MEASURE_SECONDS
    while best == 0.0 or time.perf_counter() < until:
        left = torch.ones(rows, hidden, device=device, dtype=dtype)
        began = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for the GPU
        best = max(best, 2.0 * rows * hidden * 4 * hidden / (time.perf_counter() - began))
        rows = min(tokens, 4 * rows)
    return best
