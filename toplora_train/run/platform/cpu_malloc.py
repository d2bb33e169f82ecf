"""Keep freed memory in the process on a CPU, or return it.

glibc returns the top of its heap to the system whenever it can, and maps large blocks one by one:
every tensor of some megabytes then takes fresh pages, each a page fault and zeroed. If the memory
is kept, the next tensor reuses the pages: choosing 200 answers with SmolLM2 took 8.1 s instead of
10.9 (two cores), with 3 page faults instead of 1.8 million.

It takes memory: of an aligned block, as all tensors are, glibc cannot use all again once it is
freed. Where a run is to save memory it is returned therefore: a step with activation checkpointing
took 1,637 MiB instead of 2,503 (SmolLM2, 8 rows of 200 tokens). And a sharded model is gathered and
freed layer by layer; kept, a process with 259 MB of shards allocated 744 MB.
"""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 * 2**20  # bytes; glibc accepts no larger threshold
NEVER = 2**31 - 1
SMALL = 2**20
HOLES = 0.4
"""Bytes that the heap takes for every byte of a step's tensors besides them, where it is kept:
0.36 to 0.46 in settings of SmolLM2, 0.64 with packed batches (docs/running.md)."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process; return whether its C library supports that."""
    return _set_thresholds(mapped=LARGEST, trimmed=NEVER)


def return_freed_memory() -> bool:
    """Return freed tensors to the system; return whether this C library supports that."""
    return _set_thresholds(mapped=SMALL, trimmed=SMALL)


def _set_thresholds(*, mapped: int, trimmed: int) -> bool:
    """Map blocks from ``mapped`` bytes one by one; return the heap's top beyond ``trimmed``."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, mapped) and mallopt(M_TRIM_THRESHOLD, trimmed))
