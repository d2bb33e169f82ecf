"""The paper's gate, ``exp(RMSNorm_r(.))``, and its gradient, in few operations.

    n = l / sqrt(mean_r(l^2) + eps)     z = s a exp(gain n)
    da = dz s exp(gain n)     u = da a     dgain = sum_T(u n)
    dl = (v - n mean_r(v n)) / sqrt(mean_r(l^2) + eps),   v = u gain

Shapes: a = A x and l = x Theta are the halves of ``hidden (T, 2 r)``; z (T, r), gain (r). What
:mod:`toplora_train.adapters.kernels.gate` does in a launch each, here of PyTorch's operations, in
place where possible: autograd would take more of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gated(hidden: Tensor, gain: Tensor, scaling: float, eps: float) -> Tensor:
    """Z ``(T, r)`` in the dtype of ``hidden``, computed in float32 or wider."""
    a, logits = _halves(hidden)
    exponential = _normalised(logits, eps)[0].mul_(gain).exp_()
    return exponential.mul_(a).mul_(scaling).to(hidden.dtype)


def gated_backward(
    dz: Tensor, hidden: Tensor, gain: Tensor, scaling: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The gradients of ``hidden (T, 2 r)``, in its dtype, and of the gain ``(r)``."""
    a, logits = _halves(hidden)
    n, inverse = _normalised(logits, eps)
    da = (n * gain).exp_().mul_(dz).mul_(scaling)
    u = da * a
    dgain = (u * n).sum(dim=0)
    v = u.mul_(gain)
    dl = torch.addcmul(v, n, (v * n).mean(dim=1, keepdim=True), value=-1).mul_(inverse)
    return torch.cat([da, dl], dim=1).to(hidden.dtype), dgain


def _halves(hidden: Tensor) -> tuple[Tensor, Tensor]:
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    a, logits = wide.chunk(2, dim=1)
    return a, logits


def _normalised(logits: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
    inverse = norm.square_().div_(logits.shape[1]).add_(eps).rsqrt_()
    return logits * inverse, inverse
