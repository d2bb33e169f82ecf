"""What every low-rank method computes, and the composed form of it.

    update(x) = s B (A drop(x) * gate(x)),    gate(x) = g(x Theta; gain) or 1

Shapes: A (r, n), B (m, r), Theta (n, r), gain (r); x (..., n), update (..., m). LoRA, GenLoRA and
TensLoRA have no gate; TopLoRA's g is ``exp(RMSNorm_r(.))``. :mod:`toplora_train.adapters.fused`
computes the same together with the frozen layer, in fewer passes over x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gate(NamedTuple):
    """Weights of the r directions for each token.

    Args:
        theta: ``(n, r)``.
        gain: The norm's gain ``(r)``, or None.
        function: ``(x Theta, gain) -> weights``, ``(..., r)`` each, in float32 or wider.
        paper_epsilon: The norm's epsilon if ``function`` is the paper's, ``exp(RMSNorm_r(.))``,
            which has a faster form; else None.
    """

    theta: Tensor
    gain: Tensor | None
    function: Callable[[Tensor, Tensor | None], Tensor]
    paper_epsilon: float | None = None


class LowRank(NamedTuple):
    """The factors of an update, the scaling s and the gate."""

    A: Tensor
    B: Tensor
    scaling: float = 1.0
    gate: Gate | None = None


def composed_update(x: Tensor, factors: LowRank, dropout: nn.Module) -> Tensor:
    """``s B (A drop(x) * gate(x))`` as PyTorch's own operations, differentiated by autograd.

    Args:
        x: ``(..., n)``.
        factors: Cast to the dtype of ``x``.
        dropout: Applied to the input of A, not of the gate.

    Returns:
        ``(..., m)``.
    """
    A, B = factors.A.to(x.dtype), factors.B.to(x.dtype)
    if factors.gate is None:
        return F.linear(F.linear(dropout(x), A) * factors.scaling, B)
    theta = factors.gate.theta.to(x.dtype).T
    if isinstance(dropout, nn.Dropout) and dropout.training:
        hidden, logits = F.linear(dropout(x), A), F.linear(x, theta)
    else:  # one pass over x
        hidden, logits = F.linear(x, torch.cat([A, theta])).chunk(2, dim=-1)
    return F.linear(gated(hidden, logits, factors.gate, factors.scaling), B)


def gated(hidden: Tensor, logits: Tensor, gate: Gate, scaling: float) -> Tensor:
    """``s * hidden * g(logits)``, ``(..., r)`` in the dtype of ``hidden``."""
    weights = gate.function(logits, gate.gain)
    return (hidden * weights * scaling).to(hidden.dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, half precision as float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
