"""Let Python's cyclic garbage collector rest while modules are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside, nothing is collected; what exists at the end is never examined again.

    What an import creates stays, a million objects for PEFT's. Examining them again and again takes
    a sixth of the import's time, and every full collection afterwards would do it once more.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
