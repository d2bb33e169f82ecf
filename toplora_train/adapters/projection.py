"""The thin products with x and their gradients, with dropout, in one pass over x each.

    h = [drop(x) K_d^T, x K_e^T],   drop(x) = x * mask / (1 - p)

Shapes: x (T, n), K = [K_d; K_e] (k, n), h (T, k); ``dropped`` is the number of rows of K_d. The
mask is drawn again from ``seed`` in the backward pass instead of being stored, so that dropout
costs neither memory nor, because a processor draws it for as many rows as fit in its cache, passes
over memory. On a CUDA device with Triton, :mod:`toplora_train.adapters.kernels` does the same in
one launch each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from toplora_train.adapters import kernels

CACHE_BYTES = 2**19
"""Size of the rows of x that are processed at a time on a CPU."""


def project(x: Tensor, K: Tensor, p: float, seed: int, dropped: int) -> Tensor:
    """The thin product ``(T, k)``, in the dtype of ``x``.

    Without dropout, and so in evaluation, to the bit as PEFT computes it.
    """
    if p == 0:
        return x @ K.T
    if _has_kernel(x, K):
        from toplora_train.adapters.kernels.projection import project as in_one_launch

        return in_one_launch(x, K.contiguous(), p, seed, dropped)
    h = x.new_empty(len(K), len(x))
    for rows, places in _drops(x, p, seed):
        torch.mm(K[:dropped], _without(x[rows].clone(), places).T, out=h[:dropped, rows])
        if dropped < len(K):
            torch.mm(K[dropped:], x[rows].T, out=h[dropped:, rows])
    h[:dropped] /= 1 - p
    return h.T.contiguous() if kernels.available(x) else h.T


def add_product(y: Tensor, h: Tensor, K: Tensor) -> Tensor:
    """``y + h K``, added in place: ``(T, n)``.

    On an H200 the kernel takes 63 to 82 % of ``addmm``'s time (T 16,384, n 4,096, k 16 to 64).
    """
    if not _has_kernel(y, K):
        return y.addmm_(h, K)
    from toplora_train.adapters.kernels.projection import project_backward_input

    project_backward_input(h.contiguous(), K.contiguous(), 0.0, 0, 0, y)
    return y


def gradients(
    dh: Tensor, x: Tensor, K: Tensor, dx: Tensor | None, p: float, seed: int, dropped: int,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The gradient by K, ``(k, n)`` in ``dtype``; that by x is added to ``dx``, if it is needed.

    dK = [dh_d^T drop(x); dh_e^T x],   dx += mask / (1 - p) * (dh_d K_d) + dh_e K_e
    """
    if p == 0:
        if dx is not None:
            add_product(dx, dh, K)
        return product(dh.T, x, dtype)
    if _has_kernel(x, K):
        from toplora_train.adapters.kernels import projection as in_one_launch

        dh, K = dh.contiguous(), K.contiguous()
        if dx is not None:
            in_one_launch.project_backward_input(dh, K, p, seed, dropped, dx)
        return in_one_launch.project_backward_weight(dh, x, p, seed, dropped).to(dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    dK = x.new_zeros(len(K), x.shape[1], dtype=wide)
    for rows, places in _drops(x, p, seed):
        dh_d, dh_e = dh[rows, :dropped] / (1 - p), dh[rows, dropped:]
        dK[:dropped].add_(dh_d.T @ _without(x[rows].clone(), places))
        if dx is not None:
            dx[rows].add_(_without(dh_d @ K[:dropped], places))
        if dropped < len(K):
            dK[dropped:].add_(dh_e.T @ x[rows])
            if dx is not None:
                dx[rows].addmm_(dh_e, K[dropped:])
    return dK.to(dtype)


def product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix product in ``dtype``, without rounding in between where the device can.

    On a CPU a thin result is computed as a wide one, transposed: MKL takes 1.5 to 7 times as long
    for few columns as for few rows (T 384, n 576 to 1,536, k 8).
    """
    if left.is_cuda and dtype == torch.float32 != left.dtype:
        return torch.mm(left, right, out_dtype=dtype)
    thin = right.shape[1] < len(left) and left.device.type == "cpu"
    if thin and not kernels.available(left):
        return (right.T @ left.T).to(dtype).T
    return (left @ right).to(dtype)


def _has_kernel(x: Tensor, K: Tensor) -> bool:
    return kernels.available(x) and len(K) <= kernels.MAX_RANK


def _drops(x: Tensor, p: float, seed: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows, and what is dropped from each: places on a CPU, elsewhere a Boolean mask."""
    generator = torch.Generator(x.device).manual_seed(seed)
    if x.device.type != "cpu":
        yield (
            slice(0, len(x)),
            x.new_empty(x.shape, dtype=torch.bool).bernoulli_(p, generator=generator),
        )
        return
    step = max(1, CACHE_BYTES // (x.shape[1] * x.element_size()))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        yield rows, _dropped((rows.stop - start) * x.shape[1], p, generator)


def _without(part: Tensor, dropped: Tensor) -> Tensor:
    """The tensor, overwritten with zeros in the dropped places."""
    if dropped.dtype == torch.bool:
        return part.masked_fill_(dropped, 0)
    return part.view(-1).scatter_(0, dropped, 0).view(part.shape)


def _dropped(count: int, p: float, generator: torch.Generator) -> Tensor:
    """The places in ascending order of dropped entries, of ``count``, each with probability p.

    The gaps between them are geometric, ``ceil(log U / log(1 - p))``: a number is drawn per dropped
    entry, where ``bernoulli_`` draws one per entry, which took 15 % of a step.
    """
    likely = int(count * p + 3 * math.sqrt(count * p)) + 1
    gaps = torch.empty(likely, dtype=torch.float32).uniform_(2**-25, 1, generator=generator)
    places = gaps.log_().div_(math.log1p(-p)).ceil_().cumsum(0, dtype=torch.int64).sub_(1)
    inside = int(torch.searchsorted(places, count))
    if inside < likely:
        return places[:inside]
    end = int(places[-1]) + 1  # three standard deviations were not enough
    return torch.cat([places, _dropped(count - end, p, generator).add_(end)])
