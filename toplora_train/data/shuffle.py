"""Shuffling that is reproducible on every machine and version of Python."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

Item = TypeVar("Item")


def shuffled(items: Iterable[Item], rng: random.Random) -> list[Item]:
    """A permutation of ``items`` as a new list.

    It uses only ``rng.random()``, which Python guarantees to be stable across versions;
    ``rng.shuffle`` and torch's and numpy's permutations have no such guarantee.
    """
    keyed = [(rng.random(), item) for item in items]
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]


def permutation(count: int, rng: random.Random) -> NDArray[Any]:
    """The order into which :func:`shuffled` puts ``range(count)``, as an array of indices."""
    import numpy as np  # slow to import, and only training needs it

    keys = np.fromiter((rng.random() for _ in range(count)), dtype=np.float64, count=count)
    return np.argsort(keys, kind="stable")
