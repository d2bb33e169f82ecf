"""The narrow products of an adapter with x ``(T, n)`` under dropout, each reading x once.

    project:                 [drop(x) K_d^T | x K_p^T]                  x (T, n) -> (T, k)
    project_backward_input:  dx += drop(dh_d K_d) + dh_p K_p            in place
    project_backward_weight: dK = [dh_d^T drop(x); dh_p^T x]            (k, n), float32

K (k, n) has ``dropped`` rows K_d that see drop(x), followed by rows K_p that see x, as TopLoRA's
gate does; dh is split alike. drop is :mod:`toplora_train.adapters.kernels.dropout`'s, the same in
all three. Sums are accumulated in float32 in a fixed order, so results are reproducible.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from toplora_train.adapters.kernels import DTYPES, MAX_RANK, blocks
from toplora_train.adapters.kernels.dropout import kept, threshold_and_scale

MULTIPROCESSORS = 132
"""Of an H100 or H200. A constant, so that another GPU adds in the same order."""


@triton.jit(do_not_specialize=["T", "seed", "threshold"])
def _project(
    x, K, out, T, n, seed, threshold, scale,
    k: tl.constexpr, dropped: tl.constexpr, DROPPED: tl.constexpr, PLAIN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ROWS
    rows = tl.arange(0, ROWS)
    inside = (first + rows < T)[:, None]
    x += first.to(tl.int64) * n
    if DROPPED > 0:
        index_d = tl.arange(0, DROPPED)
        sum_d = tl.full((ROWS, DROPPED), 0.0, tl.float32)
    if PLAIN > 0:
        index_p = dropped + tl.arange(0, PLAIN)
        sum_p = tl.full((ROWS, PLAIN), 0.0, tl.float32)
    for start in range(0, n, COLUMNS):
        columns = (start + tl.arange(0, COLUMNS))[None, :]
        within = columns < n
        tile = tl.load(x + rows[:, None] * n + columns, mask=inside & within, other=0.0)
        if DROPPED > 0:
            groups = start // 8 + tl.arange(0, COLUMNS // 8)
            seen = tl.where(kept(seed, first + rows, groups, threshold), tile, 0.0)
            mask = (index_d < dropped)[:, None] & within
            K_d = tl.load(K + index_d[:, None] * n + columns, mask=mask, other=0.0)
            sum_d = tl.dot(seen, tl.trans(K_d), sum_d, input_precision="ieee")
        if PLAIN > 0:
            mask = (index_p < k)[:, None] & within
            K_p = tl.load(K + index_p[:, None] * n + columns, mask=mask, other=0.0)
            sum_p = tl.dot(tile, tl.trans(K_p), sum_p, input_precision="ieee")
    places = out + first.to(tl.int64) * k + rows[:, None] * k
    if DROPPED > 0:
        mask = inside & (index_d < dropped)[None, :]
        tl.store(places + index_d[None, :], sum_d * scale, mask=mask)
    if PLAIN > 0:
        tl.store(places + index_p[None, :], sum_p, mask=inside & (index_p < k)[None, :])


@triton.jit
def _add_product(
    total, dhidden, K, inside, columns, n,
    k: tl.constexpr, begin: tl.constexpr, end: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Add ``dhidden[:, begin:end] @ K[begin:end]`` to total, INNER terms at a time."""
    for base in range(0, PADDED, INNER):
        index = begin + base + tl.arange(0, INNER)
        places = dhidden + tl.arange(0, ROWS)[:, None] * k + index[None, :]
        left = tl.load(places, mask=inside & (index < end)[None, :], other=0.0)
        mask = (index < end)[:, None] & (columns < n)
        right = tl.load(K + index[:, None] * n + columns, mask=mask, other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["T", "seed", "threshold"])
def _project_backward_input(
    dhidden, K, dx, T, n, seed, threshold, scale,
    k: tl.constexpr, dropped: tl.constexpr, DROPPED: tl.constexpr, PLAIN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    across = (n + COLUMNS - 1) // COLUMNS
    first = tl.program_id(0) // across * ROWS
    start = tl.program_id(0) % across * COLUMNS
    rows = tl.arange(0, ROWS)
    inside = (first + rows < T)[:, None]
    columns = (start + tl.arange(0, COLUMNS))[None, :]
    places = dx + first.to(tl.int64) * n + rows[:, None] * n + columns
    tile = tl.load(places, mask=inside & (columns < n), other=0.0)
    dhidden += first.to(tl.int64) * k
    total = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    if DROPPED > 0:
        total = _add_product(
            total, dhidden, K, inside, columns, n, k, 0, dropped, DROPPED, ROWS, min(DROPPED, INNER)
        )
        groups = start // 8 + tl.arange(0, COLUMNS // 8)
        total = tl.where(kept(seed, first + rows, groups, threshold), total * scale, 0.0)
    if PLAIN > 0:
        total = _add_product(
            total, dhidden, K, inside, columns, n, k, dropped, k, PLAIN, ROWS, min(PLAIN, INNER)
        )
    tl.store(places, tile.to(tl.float32) + total, mask=inside & (columns < n))


@triton.jit(do_not_specialize=["T", "span", "seed", "threshold"])
def _project_backward_weight(
    dhidden, x, parts, T, n, span, seed, threshold, scale,
    k: tl.constexpr, dropped: tl.constexpr, DROPPED: tl.constexpr, PLAIN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * COLUMNS
    begin = tl.program_id(1) * span
    end = tl.minimum(begin + span, T)
    columns = start + tl.arange(0, COLUMNS)
    within = columns < n
    rows = tl.arange(0, ROWS)
    if DROPPED > 0:
        index_d = tl.arange(0, DROPPED)
        sum_d = tl.full((COLUMNS, DROPPED), 0.0, tl.float32)
    if PLAIN > 0:
        index_p = dropped + tl.arange(0, PLAIN)
        sum_p = tl.full((COLUMNS, PLAIN), 0.0, tl.float32)
    x += begin.to(tl.int64) * n
    dhidden += begin.to(tl.int64) * k
    for first in range(begin, end, ROWS):
        inside = (first + rows < end)[:, None]
        mask = inside & within[None, :]
        tile = tl.load(x + rows[:, None] * n + columns[None, :], mask=mask, other=0.0)
        places = dhidden + rows[:, None] * k
        if DROPPED > 0:
            groups = start // 8 + tl.arange(0, COLUMNS // 8)
            seen = tl.where(kept(seed, first + rows, groups, threshold), tile, 0.0)
            mask = inside & (index_d < dropped)[None, :]
            d = tl.load(places + index_d[None, :], mask=mask, other=0.0)
            sum_d = tl.dot(tl.trans(seen), d, sum_d, input_precision="ieee")
        if PLAIN > 0:
            mask = inside & (index_p < k)[None, :]
            d = tl.load(places + index_p[None, :], mask=mask, other=0.0)
            sum_p = tl.dot(tl.trans(tile), d, sum_p, input_precision="ieee")
        x += ROWS * n
        dhidden += ROWS * k
    places = parts + tl.program_id(1).to(tl.int64) * k * n + columns[:, None]
    if DROPPED > 0:
        mask = within[:, None] & (index_d < dropped)[None, :]
        tl.store(places + index_d[None, :] * n, sum_d * scale, mask=mask)
    if PLAIN > 0:
        mask = within[:, None] & (index_p < k)[None, :]
        tl.store(places + index_p[None, :] * n, sum_p, mask=mask)


class Tile(NamedTuple):
    """What one program of a launch takes of x at a time."""

    rows: int
    columns: int
    warps: int


class Tiles(NamedTuple):
    """How the three launches split their work."""

    forward: Tile
    backward_input: Tile
    backward_weight: Tile
    inner: int
    """How many of the k terms `project_backward_input` loads at a time."""


def tiles_of(T: int, k: int, itemsize: int) -> Tiles:
    """The tiles for T rows and k (padded) rows of K, from shapes alone.

    Rows are fewer where 64 would leave multiprocessors idle; columns, where the sums (a tile's rows
    or columns times k, in float32) need the registers. Programs of the gradient by x are short, and
    many of them hide the latency. Tensor cores have no float32: those products are unrolled
    instructions, and their tiles are small.
    """
    rows = 64 if T >= 64 * MULTIPROCESSORS else 32 if T >= 32 * MULTIPROCESSORS else 16
    warps = 4 if k <= 64 else 8
    if itemsize == 4:
        side = 32 if k <= 128 else 16
        return Tiles(Tile(min(rows, side), side, warps), Tile(side, 64, 4), Tile(side, side, 8), 16)
    columns = 128 if k <= 64 else 64 if k <= 256 else 32
    return Tiles(Tile(rows, columns, warps), Tile(64, 64, 4), Tile(64, columns, 8), 64)


class _Product(NamedTuple):
    """What the three launches have in common."""

    T: int
    n: int
    k: int
    dropped: int
    threshold: int
    scale: float
    padded_dropped: int
    padded_plain: int
    tiles: Tiles


def _product(x: Tensor, narrow: Tensor, k: int, p: float, dropped: int) -> _Product:
    for name, tensor in (("wide", x), ("narrow", narrow)):
        if tensor.dim() != 2 or not tensor.is_contiguous():
            raise ValueError(f"the {name} matrix must be contiguous, not {tuple(tensor.shape)}")
    if x.dtype not in DTYPES or narrow.dtype != x.dtype:
        raise ValueError(f"both matrices must have one dtype of {DTYPES}")
    if not 0 <= dropped <= k or max(dropped, k - dropped) > MAX_RANK:
        raise ValueError(
            f"cannot drop x for {dropped} of {k} rows; each part has at most {MAX_RANK}"
        )
    return _planned(*x.shape, k, p, dropped, x.element_size())


@lru_cache(maxsize=1024)  # the layers of a step have few shapes, and this takes as long as a launch
def _planned(T: int, n: int, k: int, p: float, dropped: int, itemsize: int) -> _Product:
    threshold, scale = threshold_and_scale(p)
    dropped = dropped if threshold else 0
    padded_dropped, padded_plain = (
        max(16, triton.next_power_of_2(size)) if size else 0 for size in (dropped, k - dropped)
    )
    tiles = tiles_of(T, padded_dropped + padded_plain, itemsize)
    return _Product(T, n, k, dropped, threshold, scale, padded_dropped, padded_plain, tiles)


def _seed(seed: int | Tensor) -> int | Tensor:
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1:
            raise ValueError(f"a seed tensor must hold one int64, not {seed.dtype} {seed.shape}")
    elif not -(2**63) <= seed < 2**63:
        raise ValueError(f"the seed must fit in 64 bits, signed, not {seed}")
    return seed


def project(x: Tensor, K: Tensor, p: float, seed: int | Tensor, dropped: int) -> Tensor:
    """``[drop(x) K_d^T | x K_p^T]`` in one read of x.

    Args:
        x: ``(T, n)``, contiguous.
        K: ``(k, n)``, contiguous, in x's dtype.
        p: The probability that dropout zeroes an element of x.
        seed: Of the mask: an integer, or one int64 on x's device, which needs no synchronization.
        dropped: How many rows of K, the first ones, see drop(x).

    Returns:
        ``(T, k)`` in x's dtype.

    Raises:
        ValueError: A shape, dtype, p, seed or ``dropped`` that the kernels do not take.
    """
    work = _product(x, K, len(K), p, dropped)
    if K.shape[1] != work.n:
        raise ValueError(f"K {tuple(K.shape)} does not multiply x {tuple(x.shape)}")
    out = x.new_empty(work.T, work.k)
    rows, columns, warps = work.tiles.forward
    if work.T:
        with torch.cuda.device_of(x):
            _project[(blocks(work.T, rows),)](
                x, K, out, work.T, work.n, _seed(seed), work.threshold, work.scale,
                work.k, work.dropped, work.padded_dropped, work.padded_plain,
                rows, columns, num_warps=warps, num_stages=3,
            )  # fmt: skip
    return out


def project_backward_input(
    dhidden: Tensor, K: Tensor, p: float, seed: int | Tensor, dropped: int, dx: Tensor
) -> None:
    """Add the gradient by x to ``dx`` in place, in one read and one write of it.

    Args:
        dhidden: The gradient by :func:`project`'s result, ``(T, k)``, contiguous.
        K: As in :func:`project`.
        p: As in :func:`project`.
        seed: As in :func:`project`.
        dropped: As in :func:`project`.
        dx: ``(T, n)``, contiguous; the sum is rounded to its dtype once.

    Raises:
        ValueError: As :func:`project`.
    """
    work = _product(dx, dhidden, len(K), p, dropped)
    if K.shape != (work.k, work.n) or dhidden.shape != (work.T, work.k):
        raise ValueError(
            f"dhidden {tuple(dhidden.shape)} K {tuple(K.shape)} is no dx {tuple(dx.shape)}"
        )
    if K.dtype != dx.dtype or not K.is_contiguous():
        raise ValueError("K must be contiguous and in dx's dtype")
    rows, columns, warps = work.tiles.backward_input
    programs = blocks(work.T, rows) * blocks(work.n, columns)
    if programs:
        with torch.cuda.device_of(dx):
            _project_backward_input[(programs,)](
                dhidden, K, dx, work.T, work.n, _seed(seed), work.threshold, work.scale,
                work.k, work.dropped, work.padded_dropped, work.padded_plain,
                rows, columns, work.tiles.inner, num_warps=warps, num_stages=1,
            )  # fmt: skip


def project_backward_weight(
    dhidden: Tensor, x: Tensor, p: float, seed: int | Tensor, dropped: int
) -> Tensor:
    """The gradient by K in one read of x: partial sums over spans of rows, then their sum.

    Args:
        dhidden: The gradient by :func:`project`'s result, ``(T, k)``, contiguous.
        x: As in :func:`project`.
        p: As in :func:`project`.
        seed: As in :func:`project`.
        dropped: As in :func:`project`.

    Returns:
        ``(k, n)`` in float32.

    Raises:
        ValueError: As :func:`project`.
    """
    work = _product(x, dhidden, dhidden.shape[-1], p, dropped)
    if len(dhidden) != work.T:
        raise ValueError(f"dhidden {tuple(dhidden.shape)} has not x's {work.T} rows")
    rows, columns, warps = work.tiles.backward_weight
    across = blocks(work.n, columns)
    # Two programs for each multiprocessor: more would only add partial sums to write and read.
    spans = max(1, min(2 * MULTIPROCESSORS // across, blocks(work.T, rows)))
    span = blocks(blocks(work.T, spans), rows) * rows
    spans = blocks(work.T, span) if span else 0
    parts = torch.empty(spans, work.k, work.n, dtype=torch.float32, device=x.device)
    if spans:
        with torch.cuda.device_of(x):
            _project_backward_weight[(across, spans)](
                dhidden, x, parts, work.T, work.n, span, _seed(seed), work.threshold, work.scale,
                work.k, work.dropped, work.padded_dropped, work.padded_plain,
                rows, columns, num_warps=warps, num_stages=3,
            )  # fmt: skip
    return parts[0] if spans == 1 else parts.sum(dim=0)
