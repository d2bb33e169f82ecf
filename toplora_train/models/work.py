"""How much there is to compute in a run, from shapes alone, and how fast a device could do it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

LOOK = 0.2  # seconds that the speed is looked at; a plan should cost nothing


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

    A frozen weight takes two operations per token forward, and two backward for the gradient of its
    input; it has none of its own. So with ``N`` weights in the body, ``L`` layers of width ``d``,
    a vocabulary ``V``, rows of ``t`` tokens and ``s`` supervised positions in all,

    .. math:: \sum_t (4 N t + 6 L d t^2) + 4 V d s

    where the causal mask halves attention. Recomputed activations add another forward pass of the
    layers. What the adapter itself takes, a few per cent, is left out, and padding.

    Args:
        lengths: Tokens of every row, each as often as it is trained on.
        supervised: Positions whose logits are computed, over all rows.
        body: Weights of the base model without its embeddings.
        hidden: Its width.
        layers: Its layers.
        vocabulary: Its vocabulary.
        activation_checkpointing: Whether layers are recomputed.
    """
    passes = 3 if activation_checkpointing else 2
    dense = 2.0 * passes * body * sum(lengths)
    attention = 2.0 * (passes + 1) * layers * hidden * sum(length**2 for length in lengths)
    return dense + attention + 4.0 * vocabulary * hidden * supervised


def product_speed(device: torch.device, dtype: torch.dtype, *, tokens: int, hidden: int) -> float:
    """Operations per second of ``(tokens, hidden) @ (hidden, 4 hidden)`` on a device, at its best.

    No training is faster: it does other things between its products. The tokens grow from one, as
    a processor without units for ``dtype`` would take an hour for them all.
    """
    right = torch.ones(hidden, 4 * hidden, device=device, dtype=dtype)
    best, rows = 0.0, 1
    until = time.perf_counter() + LOOK
    while best == 0.0 or time.perf_counter() < until:
        left = torch.ones(rows, hidden, device=device, dtype=dtype)
        began = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # a GPU answers when it is done
        best = max(best, 2.0 * rows * hidden * 4 * hidden / (time.perf_counter() - began))
        rows = min(tokens, 4 * rows)
    return best
