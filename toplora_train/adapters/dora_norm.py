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
from torch.autograd.function import once_differentiable

from toplora_train.adapters._peft.dora import DoraVariant, frozen_weight
from toplora_train.adapters.autocast import without_autocast
from toplora_train.adapters.projection import product


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
    with torch.no_grad(), without_autocast(weight):
        cross = product(weight, A.T.to(weight.dtype), squares.dtype)
        A, B = A.to(squares.dtype), B.to(squares.dtype)
        both = torch.addmm(cross, B, A @ A.T, beta=2 * scaling, alpha=scaling**2)
        norm_squares = (both * B).sum(dim=1).add_(squares)
        return norm_squares.clamp_min_(0).sqrt_()  # rounding may make the square negative


class FactoredDora(DoraVariant):
    """DoRA's forward for one adapter in one layer; everything else is PEFT's."""

    def __init__(self) -> None:
        self._squares: Tensor | None = None

    def forward(
        self, module: nn.Module, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """``W0 x + c + (g - 1) W0 drop(x) + g s B A drop(x)``.

        Args:
            module: PEFT's LoRA layer.
            active_adapter: The adapter's name.
            x: ``(..., n)``.
            result: ``W0 x + c``, ``(..., m)``.
            **kwargs: Unused.

        Returns:
            ``(..., m)``.
        """
        del kwargs
        layer: Any = module
        dropout = layer.lora_dropout[active_adapter]
        A, B = layer.lora_A[active_adapter], layer.lora_B[active_adapter]
        scaling = layer.scaling[active_adapter]
        gain = self.gain(module, active_adapter)
        if isinstance(dropout, nn.Dropout) and layer.training:
            x, weight = dropout(x), frozen_weight(layer)
            base = F.linear(x.to(weight.dtype), weight)
            changed: Tensor = gain * (base + B(A(x)) * scaling) - base
            return result + changed
        bias = layer.get_base_layer().bias
        if bias is not None:
            result = result - bias
        scaled: Tensor = gain * (result + B(A(x)) * scaling)
        return scaled if bias is None else scaled + bias

    def gain(self, module: nn.Module, active_adapter: str) -> Tensor:
        """``g = mag / ||W0 + s B A||_row``, ``(m,)``, in the magnitude's dtype."""
        layer: Any = module
        weight = frozen_weight(layer)
        if self._squares is None or self._squares.device != weight.device:
            self._squares = squared_row_norm(weight.detach())
        A, B = layer.lora_A[active_adapter].weight, layer.lora_B[active_adapter].weight
        scaling = layer.scaling[active_adapter]
        norm = factored_row_norm(weight, self._squares, A, B, scaling)
        magnitude: Tensor = layer.lora_magnitude_vector[active_adapter].weight
        return magnitude / norm.to(magnitude.dtype)

    def scaled(self, module: nn.Module, active_adapter: str, u: Tensor) -> Tensor:
        """``g (u - c) + c`` from ``u = W0 x + c + s B A x``: DoRA's output without dropout.

        One pass that reads u and writes the output, computed in the gain's dtype and rounded once.
        """
        gain = self.gain(module, active_adapter)
        layer: Any = module
        bias: Tensor | None = layer.get_base_layer().bias
        shift = None if bias is None else bias - gain.detach() * bias
        y: Tensor = _RowGain.apply(u, gain, bias, shift)  # type: ignore[no-untyped-call]
        return y


class _RowGain(torch.autograd.Function):
    """``g u + shift``; dg = sum over rows of dy (u - c)."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, gain: Tensor, bias: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(u, gain, bias)
        y = torch.mul(u, gain, out=torch.empty_like(u))
        return y if shift is None else y.add_(shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None]:
        u, gain, bias = ctx.saved_tensors
        m = len(gain)
        du = torch.mul(dy, gain, out=torch.empty_like(dy))
        rows = dy.reshape(-1, m)
        dgain = (rows * u.reshape(-1, m)).sum(dim=0, dtype=gain.dtype)
        if bias is not None:
            dgain -= bias * rows.sum(dim=0, dtype=gain.dtype)
        dshift = rows.sum(dim=0) if ctx.needs_input_grad[3] else None  # where biases are trained
        return du, dgain, None, dshift
