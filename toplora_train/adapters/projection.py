"""The thin products with x and their gradients, with dropout, in one pass over x each.

    h = [drop(x) K_d^T, x K_e^T],   drop(x) = x * mask / (1 - p)

Shapes: x (T, n), K = [K_d; K_e] (k, n), h (T, k); ``dropped`` is the number of rows of K_d. The
mask is drawn again from ``seed`` for each product instead of being stored, so that dropout costs
neither memory nor, because masks are drawn for as many rows as fit in a processor's cache, passes
over memory. On a CUDA device with Triton, :mod:`toplora_train.adapters.kernels` does the same in
one launch each.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from toplora_train.adapters import kernels

CACHE_BYTES = 2**19
"""Size of the rows of x that are processed at a time on a CPU."""


def project(x: Tensor, K: Tensor, p: float, seed: int, dropped: int) -> Tensor:
    """The thin product ``(T, k)``, in the dtype of ``x``."""
    if p == 0:
        return x @ K.T
    if _has_kernel(x, K):
        from toplora_train.adapters.kernels.projection import project as in_one_launch

        return in_one_launch(x, K, p, seed, dropped)
    K = _scaled(K, p, dropped)
    h = x.new_empty(len(x), len(K))
    for rows, mask in _masks(x, p, seed):
        part = x[rows]
        torch.mm(mask.mul_(part), K[:dropped].T, out=h[rows, :dropped])
        if dropped < len(K):
            torch.mm(part, K[dropped:].T, out=h[rows, dropped:])
    return h


def add_input_gradient(
    dx: Tensor, dh: Tensor, K: Tensor, p: float, seed: int, dropped: int
) -> Tensor:
    """``dx + mask / (1 - p) * (dh_d K_d) + dh_e K_e``, added in place: ``(T, n)``."""
    if p == 0:
        return dx.addmm_(dh, K)
    if _has_kernel(dx, K):
        from toplora_train.adapters.kernels.projection import project_backward_input

        project_backward_input(dh.contiguous(), K, p, seed, dropped, dx)
        return dx
    K = _scaled(K, p, dropped)
    for rows, mask in _masks(dx, p, seed):
        dx[rows].addcmul_(dh[rows, :dropped] @ K[:dropped], mask)
        if dropped < len(K):
            dx[rows].addmm_(dh[rows, dropped:], K[dropped:])
    return dx


def weight_gradient(
    dh: Tensor, x: Tensor, p: float, seed: int, dropped: int, dtype: torch.dtype
) -> Tensor:
    """``[dh_d^T drop(x); dh_e^T x]``, ``(k, n)`` in ``dtype``."""
    if p == 0:
        return product(dh.T, x, dtype)
    if _has_kernel(x, dh):
        from toplora_train.adapters.kernels.projection import project_backward_weight

        return project_backward_weight(dh.contiguous(), x, p, seed, dropped).to(dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    dK = x.new_zeros(dh.shape[1], x.shape[1], dtype=wide)
    for rows, mask in _masks(x, p, seed):
        part = x[rows]
        if dropped < len(dK):
            dK[dropped:] += dh[rows, dropped:].T @ part
        dK[:dropped] += dh[rows, :dropped].T @ mask.mul_(part)
    dK[:dropped] /= 1 - p
    return dK.to(dtype)


def product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix product in ``dtype``, without rounding in between where the device can."""
    if left.is_cuda and dtype == torch.float32 != left.dtype:
        return torch.mm(left, right, out_dtype=dtype)
    return (left @ right).to(dtype)


def _has_kernel(x: Tensor, thin: Tensor) -> bool:
    return kernels.available(x) and min(thin.shape) <= kernels.MAX_RANK


def _scaled(K: Tensor, p: float, dropped: int) -> Tensor:
    return torch.cat([K[:dropped] / (1 - p), K[dropped:]])


def _masks(x: Tensor, p: float, seed: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows, and for each a new 0/1 tensor in the shape and dtype of the rows."""
    generator = torch.Generator(x.device).manual_seed(seed)
    rows, count = len(x), len(x)
    if x.device.type == "cpu":
        rows = max(1, CACHE_BYTES // (x.shape[1] * x.element_size()))
    for start in range(0, count, max(1, rows)):
        part = slice(start, min(start + rows, count))
        mask = torch.empty_like(x[part], memory_format=torch.contiguous_format)
        yield part, mask.bernoulli_(1 - p, generator=generator)
