"""TopLoRA's gate, exp(RMSNorm), and its gradient, one launch each; `toplora.gate_of` defines it.

    hidden = [h | l],   h = A x,  l = Theta x,   each (T, r)
    z = s h exp(u),     u = gain * lhat,  lhat = l / sqrt(mean(l^2) + eps)

The gradient, with g = dz * z the derivative by u and w = gain * g:

    dh = s dz exp(u),   dl = (w - lhat * mean(w * lhat)) / sqrt(mean(l^2) + eps)
    dgain = sum_t g * lhat

Everything is computed in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from toplora_train.adapters.kernels import MAX_RANK, blocks

ELEMENTS = 2048
"""Of a block: enough for the loads of 128 threads, few enough for their registers."""


@triton.jit(do_not_specialize=["T"])
def _gated(
    hidden, gain, z, T, r: tl.constexpr, scaling, eps, ROWS: tl.constexpr, RANK: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)
    index = tl.arange(0, RANK)
    inside = (first + rows < T)[:, None] & (index < r)[None, :]
    places = hidden + first * 2 * r + rows[:, None] * 2 * r + index[None, :]
    h = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    logits = tl.load(places + r, mask=inside, other=0.0).to(tl.float32)
    gains = tl.load(gain + index, mask=index < r, other=0.0).to(tl.float32)[None, :]
    root = tl.sqrt(tl.sum(logits * logits, axis=1) / r + eps)[:, None]
    weighted = scaling * h * tl.exp(logits / root * gains)
    tl.store(z + first * r + rows[:, None] * r + index[None, :], weighted, mask=inside)


@triton.jit(do_not_specialize=["T"])
def _gated_backward(
    dz, hidden, gain, dhidden, dgain, T, r: tl.constexpr, scaling, eps,
    ROWS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)
    index = tl.arange(0, RANK)
    inside = (first + rows < T)[:, None] & (index < r)[None, :]
    offsets = first * 2 * r + rows[:, None] * 2 * r + index[None, :]
    h = tl.load(hidden + offsets, mask=inside, other=0.0).to(tl.float32)
    logits = tl.load(hidden + offsets + r, mask=inside, other=0.0).to(tl.float32)
    gains = tl.load(gain + index, mask=index < r, other=0.0).to(tl.float32)[None, :]
    places = dz + first * r + rows[:, None] * r + index[None, :]
    dh = scaling * tl.load(places, mask=inside, other=0.0).to(tl.float32)
    root = tl.sqrt(tl.sum(logits * logits, axis=1) / r + eps)[:, None]
    unit = logits / root
    dh *= tl.exp(unit * gains)
    by_exponent = dh * h
    by_unit = by_exponent * gains
    dlogits = (by_unit - unit * (tl.sum(by_unit * unit, axis=1) / r)[:, None]) / root
    tl.store(dhidden + offsets, dh, mask=inside)
    tl.store(dhidden + offsets + r, dlogits, mask=inside)
    part = tl.sum(by_exponent * unit, axis=0)
    tl.store(dgain + tl.program_id(0) * r + index, part, mask=index < r)


def _block(hidden: Tensor, gain: Tensor) -> tuple[int, int, int, int]:
    """T, r, and the rows and padded rank of a block."""
    if hidden.dim() != 2 or not hidden.is_contiguous() or hidden.shape[1] != 2 * len(gain):
        raise ValueError(
            f"hidden must be a contiguous (T, {2 * len(gain)}) matrix, not {tuple(hidden.shape)}"
        )
    T, r = hidden.shape[0], len(gain)
    if not 1 <= r <= MAX_RANK:
        raise ValueError(f"the gate's rank must be 1 to {MAX_RANK}, not {r}")
    padded = 1 << (r - 1).bit_length()
    return T, r, min(ELEMENTS // padded, 128), padded


def gated(hidden: Tensor, gain: Tensor, scaling: float, eps: float) -> Tensor:
    """The gated product, ``s h exp(gain * rmsnorm(l))``.

    Args:
        hidden: ``[h | l]``, ``(T, 2 r)``, contiguous.
        gain: The norm's gain, ``(r)``.
        scaling: s.
        eps: Added to the mean of squares under the root; positive.

    Returns:
        ``(T, r)`` in hidden's dtype.

    Raises:
        ValueError: hidden is not a contiguous ``(T, 2 r)`` matrix, or r is above 256.
    """
    T, r, rows, padded = _block(hidden, gain)
    z = hidden.new_empty(T, r)
    if T:
        with torch.cuda.device_of(hidden):
            _gated[(blocks(T, rows),)](
                hidden, gain.contiguous(), z, T, r, float(scaling), float(eps), rows, padded
            )
    return z


def gated_backward(
    dz: Tensor, hidden: Tensor, gain: Tensor, scaling: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`gated`, the same in every run: the gain's has no atomic addition.

    Args:
        dz: The gradient by z, ``(T, r)``.
        hidden: As in :func:`gated`.
        gain: As in :func:`gated`.
        scaling: As in :func:`gated`.
        eps: As in :func:`gated`.

    Returns:
        The gradients by hidden, ``(T, 2 r)`` in its dtype, and by the gain, ``(r)`` in float32.

    Raises:
        ValueError: As :func:`gated`, or dz's shape does not fit.
    """
    T, r, rows, padded = _block(hidden, gain)
    if dz.shape != (T, r):
        raise ValueError(f"dz must be ({T}, {r}) as z is, not {tuple(dz.shape)}")
    dhidden = torch.empty_like(hidden)
    programs = blocks(T, rows)
    parts = torch.empty(programs, r, dtype=torch.float32, device=hidden.device)
    if T:
        with torch.cuda.device_of(hidden):
            _gated_backward[(programs,)](
                dz.contiguous(), hidden, gain.contiguous(), dhidden, parts,
                T, r, float(scaling), float(eps), rows, padded,
            )  # fmt: skip
    return dhidden, parts.sum(dim=0)
