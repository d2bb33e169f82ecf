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


def add_product(
    y: Tensor, h: Tensor, K: Tensor, p: float = 0.0, seed: int = 0, dropped: int = 0
) -> Tensor:
    """``y + mask / (1 - p) * (h_d K_d) + h_e K_e``, added in place: ``(T, n)``.

    On an H200 the kernel takes 63 to 82 % of ``addmm``'s time without dropout, too (T 16,384, n
    4,096, k 16 to 64).
    """
    if _has_kernel(y, K):
        from toplora_train.adapters.kernels.projection import project_backward_input

        project_backward_input(h.contiguous(), K.contiguous(), p, seed, dropped, y)
        return y
    if p == 0:
        return y.addmm_(h, K)
    K = _scaled(K, p, dropped)
    for rows, mask in _masks(y, p, seed):
        y[rows].addcmul_(h[rows, :dropped] @ K[:dropped], mask)
        if dropped < len(K):
            y[rows].addmm_(h[rows, dropped:], K[dropped:])
    return y


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
        yield part, _mask(x[part], p, generator)


def _mask(like: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """0 with probability p, to within 2^-16, else 1; in the shape and dtype of ``like``.

    One 64-bit number decides four entries, 16 bits each. ``bernoulli_`` draws a number per entry,
    which on a CPU took 15 % of a step.
    """
    numbers = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    lanes = numbers.random_(-(2**63), None, generator=generator).view(torch.int16)
    least = min(round(p * 2**16) - 2**15, 2**15 - 1)  # a larger one would wrap around
    mask = torch.empty_like(like, memory_format=torch.contiguous_format)
    return torch.ge(lanes[: like.numel()].view(like.shape), least, out=mask)
