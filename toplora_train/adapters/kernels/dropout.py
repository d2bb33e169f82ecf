"""Dropout's mask as a function of seed, row and column, so that no kernel stores or reads it.

    bits(t, j) = 16 bits of Philox4x32-7(key = seed, counter = (j // 8, t, 0, 0))
    kept(t, j) = bits(t, j) >= round(2^16 p),    drop(x) = x * kept / P(kept)

Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011);
seven is the smallest number of rounds that passes BigCrush. One call serves eight neighbouring
columns: with one call per element the integer arithmetic would take longer than reading x.
p is rounded to a multiple of 2^-16, and the scale is that of the rounded p, so the expectation of
drop(x) is x. The mask depends neither on T nor on how a kernel splits its work.
"""

from __future__ import annotations

import triton
import triton.language as tl

STEPS = 2**16


def threshold_and_scale(p: float) -> tuple[int, float]:
    """``round(2^16 p)``, at least 1 unless p is 0, and ``1 / P(kept)``.

    Raises:
        ValueError: p is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise ValueError(f"the kernels compute dropout with 0 <= p < 1, not {p!r}")
    threshold = min(max(round(p * STEPS), int(p > 0)), STEPS - 1)
    return threshold, STEPS / (STEPS - threshold)


@triton.jit
def kept(seed, rows, groups, threshold):
    """The mask's block for ``rows`` (R) and ``groups`` (G) of eight columns: ``(R, 8 G)``.

    ``seed`` is an integer or a pointer to one of 64 bits. The 32-bit products are computed in 64
    bits because a GPU has one instruction for both halves.
    """
    R: tl.constexpr = rows.shape[0]
    G: tl.constexpr = groups.shape[0]
    key = (tl.load(seed) if seed.dtype.is_ptr() else seed).to(tl.int64).to(tl.uint64)
    key_a = key.to(tl.uint32)
    key_b = (key >> 32).to(tl.uint32)
    a = groups[None, :].to(tl.uint32)
    b = rows[:, None].to(tl.uint32)
    c = a & 0
    d = a & 0
    for _ in tl.static_range(7):
        left = a.to(tl.uint64) * 0xD2511F53
        right = c.to(tl.uint64) * 0xCD9E8D57
        a = (right >> 32).to(tl.uint32) ^ b ^ key_a
        b = right.to(tl.uint32)
        c = (left >> 32).to(tl.uint32) ^ d ^ key_b
        d = left.to(tl.uint32)
        key_a += 0x9E3779B9
        key_b += 0xBB67AE85
    words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (R, G * 4))
    # The low and the high half of each word, compared in the place of the high half.
    bits = tl.reshape(tl.join(words << 16, words), (R, G * 8))
    return bits >= threshold.to(tl.uint32) << 16
