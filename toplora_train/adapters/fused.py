"""A frozen linear layer and its low-rank update as one differentiable function.

    h  = [drop(x) A^T, x Theta]    z = s h_A * gate(h_Theta)    y = x W^T + c + z B^T
    dB = dy^T z                    dz = dy B                    dh from dz through the gate
    dA = dh_A^T drop(x)            dTheta = x^T dh_Theta
    dx = dy W + mask / (1 - p) * (dh_A A) + dh_Theta Theta^T

Shapes: x (T, n) after flattening, W (m, n), c (m), A (r, n), B (m, r), Theta (n, r), h (T, r or
2 r), z (T, r). Autograd would store and pass over tensors of x's size several times more often:
here the forward pass reads x once more than the frozen layer does, and reads and writes y once
more; the backward pass reads dy twice, x once, and dx once and writes it once more. Kept for it
are x, h and z. All is computed in the dtype of the frozen layer, from a copy of the (thin) factors,
as autocast does; the gate and the gradients of the factors are float32 or wider. On a CPU without
instructions for half precision the gradients' products are float32.

It is used where one adapter is active in a layer and the input has the frozen layer's dtype, or
autocast's. Otherwise, and inside ``torch.compile``, which fuses by itself, the update is composed
of PyTorch's operations (:func:`~toplora_train.adapters.low_rank.composed_update`). The frozen layer
is part of the function if it is an ``nn.Linear`` without hooks; others (quantised) are called.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from toplora_train.adapters import gate as paper_gate
from toplora_train.adapters import kernels, projection
from toplora_train.adapters.autocast import autocast_dtype, without_autocast
from toplora_train.adapters.low_rank import Gate, LowRank, composed_update, gated
from toplora_train.models.half import has_products


def can_fuse(x: Tensor, base_layer: nn.Module, adapter_dtype: torch.dtype) -> bool:
    """Whether :func:`fused_linear` computes this layer's output; see the module's docstring."""
    if torch.compiler.is_compiling() or not x.is_floating_point():
        return False
    dtype = _compute_dtype(x)
    if torch.promote_types(adapter_dtype, dtype) != adapter_dtype:
        return False  # an adapter narrower than its base: its sums would not be the base's
    if autocast_dtype(x) is not None:
        return _is_plain(base_layer)  # the dtype of other layers' outputs is their own affair
    weight = base_layer.weight if _is_plain(base_layer) else x
    return weight.dtype == dtype


def fused_linear(x: Tensor, base_layer: nn.Module, factors: LowRank, dropout: nn.Module) -> Tensor:
    """The frozen layer's output with the update.

    Args:
        x: ``(..., n)``.
        base_layer: The frozen layer.
        factors: The update's factors, for which :func:`can_fuse`.
        dropout: ``nn.Dropout`` or ``nn.Identity``, for the input of A.

    Returns:
        ``(..., m)``, in the frozen layer's dtype or autocast's.
    """
    plain = _is_plain(base_layer)
    weight, bias = (base_layer.weight, base_layer.bias) if plain else (None, None)
    result = None if plain else base_layer(x)
    if result is not None and result.dtype != x.dtype:
        update = composed_update(x.to(factors.A.dtype), factors, dropout)
        summed: Tensor = (result + update).to(result.dtype)
        return summed
    p = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    if x.is_meta:
        p = 0.0  # nothing is kept of a mask, so a simulated step does without
    # Drawn on the CPU for every device: no synchronisation, and the checkpointed state holds it.
    seed = int(torch.randint(2**62, ())) if p else 0
    A, B, scaling, gate = factors
    theta, gain = (gate.theta, gate.gain) if gate else (None, None)
    how = _How(scaling, gate, p, seed, _compute_dtype(x))
    with without_autocast(x):
        y: Tensor = _FusedLinear.apply(  # type: ignore[no-untyped-call]  # untyped in its package
            x, weight, bias, result, A, B, theta, gain, how
        )
    return y


def _compute_dtype(x: Tensor) -> torch.dtype:
    return autocast_dtype(x) or x.dtype


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer is ``x W^T + c`` with frozen, ordinary tensors and nothing hooked to it."""
    if type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter:
        return False
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    trained = layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
    return not trained and not any(hooks)


class _How(NamedTuple):
    scaling: float
    gate: Gate | None
    p: float
    seed: int
    dtype: torch.dtype


class _FusedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        result: Tensor | None,
        A: Tensor,
        B: Tensor,
        theta: Tensor | None,
        gain: Tensor | None,
        how: _How,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(how.dtype).contiguous()
        K = (A if theta is None else torch.cat([A, theta.T])).to(how.dtype)
        scale = how.scaling if how.gate is None else 1.0
        # Transposed, scaled and cast in one launch.
        K_out = torch.mul(B.T, scale, out=B.new_empty(B.shape[1], len(B), dtype=how.dtype))
        h = projection.project(rows, K, how.p, how.seed, len(A))
        z = h if how.gate is None else _gate(h, gain, how)
        if weight is None:
            assert result is not None
            y = torch.addmm(result.reshape(-1, len(B)), z, K_out)
        else:
            bias = None if bias is None else bias.to(how.dtype)
            y = projection.add_product(F.linear(rows, weight.to(how.dtype), bias), z, K_out)
        ctx.save_for_backward(rows, weight, K, K_out, h, z, gain)
        ctx.how, ctx.shape = how, x.shape
        ctx.dtypes = [None if t is None else t.dtype for t in (x, A, B, theta, gain)]
        return y.view(*x.shape[:-1], len(B))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(dy):
            return _gradients(ctx, dy)


def _gradients(ctx: Any, dy: Any) -> tuple[Tensor | None, ...]:
    """The gradients of x, of the result of a layer that was called, and of the factors."""
    rows, weight, K, K_out, h, z, gain = ctx.saved_tensors
    how: _How = ctx.how
    r, m = K_out.shape
    dtype, of_result = how.dtype, dy if weight is None else None
    if dy.device.type == "cpu" and not has_products(dtype):
        dtype = torch.float32
        given = [dy, rows, weight, K, K_out, h, z]
        dy, rows, weight, K, K_out, h, z = (t if t is None else t.to(dtype) for t in given)
    dy_rows = dy.reshape(-1, m)
    of_x, of_A, of_B, of_theta, of_gain = ctx.dtypes
    dB = projection.product(dy_rows.T, z, of_B)
    dh = projection.product(dy_rows, K_out.T, dtype)
    dx = dtheta = dgain = None
    if how.gate is None:
        dB.mul_(how.scaling)
    else:
        dh, dgain = _gate_gradient(dh, h, gain, how)
    if ctx.needs_input_grad[0]:
        dx = torch.zeros_like(rows) if weight is None else dy_rows @ weight.to(dtype)
    dK = projection.gradients(dh, rows, K, dx, how.p, how.seed, r, of_A)
    dx = None if dx is None else dx.view(ctx.shape).to(of_x)
    if how.gate is not None:
        dtheta = dK[r:].T.to(of_theta)
        dgain = None if dgain is None else dgain.to(of_gain)
    return dx, None, None, of_result, dK[:r], dB, dtheta, dgain, None


def _gate(h: Tensor, gain: Tensor | None, how: _How) -> Tensor:
    """``s (A x) * g(x Theta)``, ``(T, r)``, from h ``(T, 2 r)``."""
    assert how.gate is not None
    if how.gate.paper_epsilon is not None and gain is not None:
        z: Tensor = _paper_gate(h).gated(h, gain, how.scaling, how.gate.paper_epsilon)
        return z
    hidden, logits = h.chunk(2, dim=1)
    return gated(hidden, logits, how.gate._replace(gain=gain), how.scaling)


def _gate_gradient(
    dz: Tensor, h: Tensor, gain: Tensor | None, how: _How
) -> tuple[Tensor, Tensor | None]:
    """The gradients of h and gain; z is cheap to compute again, and autograd differentiates it."""
    assert how.gate is not None
    epsilon = how.gate.paper_epsilon
    if epsilon is not None and gain is not None:
        found: tuple[Tensor, Tensor] = _paper_gate(h).gated_backward(
            dz, h, gain, how.scaling, epsilon
        )
        return found
    inputs = [t.detach().requires_grad_() for t in (h, gain) if t is not None]
    with torch.enable_grad():
        z = _gate(inputs[0], inputs[1] if len(inputs) == 2 else None, how)
    dh, *dgain = torch.autograd.grad(z, inputs, dz)
    return dh, dgain[0] if dgain else None


def _paper_gate(h: Tensor) -> Any:
    """The module that computes the paper's gate on the device of ``h``."""
    if kernels.available(h) and h.shape[1] <= 2 * kernels.MAX_RANK:
        from toplora_train.adapters.kernels import gate as in_one_launch

        return in_one_launch
    return paper_gate
