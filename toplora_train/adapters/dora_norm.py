"""DoRA's row norm in factored form, without materialising a matrix of the weight's size.

PEFT computes ``||W0 + s B A||_row`` from the sum itself, an (m, n) matrix like the weight, at every
step and in every layer. Expanded, the squared norm is

    ||W0||^2 + 2 s rowsum( (W0 A^T) * B ) + s^2 rowsum( (B (A A^T)) * B )

whose largest matrices are (m, r); ``||W0||^2`` is computed once because W0 is frozen. The result is
the same up to rounding. Parameters and checkpoints are those of PEFT's DoRA.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toplora_train.adapters._peft.dora import DoraVariant, frozen_weight


def squared_row_norm(weight: Tensor) -> Tensor:
    """The squared norm of every row: ``(m, n) -> (m,)``, in float32 or float64."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=dtype)
    return norm**2


def factored_row_norm(
    weight: Tensor, squares: Tensor, A: Tensor, B: Tensor, scaling: float
) -> Tensor:
    """The norm of every row of ``W0 + s B A``, detached from the graph as in DoRA (section 4.3).

    Args:
        weight: W0 ``(m, n)``; the product with A is computed in its dtype.
        squares: ``||W0||^2`` of every row ``(m,)``.
        A: ``(r, n)``.
        B: ``(m, r)``.
        scaling: s.

    Returns:
        ``(m,)`` in the dtype of ``squares``.
    """
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        cross = F.linear(weight, A.to(weight.dtype)).to(squares.dtype)
        A, B = A.to(squares.dtype), B.to(squares.dtype)
        cross_terms = (cross * B).sum(dim=1)
        update_squares = ((B @ (A @ A.T)) * B).sum(dim=1)
        norm_squares = squares + 2 * scaling * cross_terms + scaling**2 * update_squares
        return norm_squares.clamp_min(0).sqrt()  # rounding may make the square negative


class FactoredDora(DoraVariant):
    """DoRA's forward for one adapter in one layer; everything else is PEFT's."""

    def __init__(self) -> None:
        self._squares: Tensor | None = None

    def forward(
        self, module: nn.Module, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """``W0 x + b + (g - 1) W0 drop(x) + g s B A drop(x)``.

        Args:
            module: PEFT's LoRA layer.
            active_adapter: The adapter's name.
            x: ``(..., n)``.
            result: ``W0 x + b``, ``(..., m)``.
            **kwargs: Unused.

        Returns:
            ``(..., m)``.
        """
        del kwargs
        layer: Any = module
        dropout = layer.lora_dropout[active_adapter]
        A, B = layer.lora_A[active_adapter], layer.lora_B[active_adapter]
        scaling = layer.scaling[active_adapter]
        weight = frozen_weight(layer)
        if self._squares is None or self._squares.device != weight.device:
            self._squares = squared_row_norm(weight.detach())
        norm = factored_row_norm(weight, self._squares, A.weight, B.weight, scaling)
        magnitude = layer.lora_magnitude_vector[active_adapter].weight
        gain = magnitude / norm.to(magnitude.dtype)
        if isinstance(dropout, nn.Dropout) and layer.training:
            x = dropout(x)
            base = F.linear(x.to(weight.dtype), weight)
            changed: Tensor = gain * (base + B(A(x)) * scaling) - base
            return result + changed
        bias = layer.get_base_layer().bias
        if bias is not None:
            result = result - bias
        scaled: Tensor = gain * (result + B(A(x)) * scaling)
        return scaled if bias is None else scaled + bias
