"""Shuffling that is the same on every machine and version of Python."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def shuffled(items: Iterable[Item], rng: random.Random) -> list[Item]:
    """A permutation of ``items`` as a new list.

    It hangs on ``rng.random()`` alone, the one stream that Python promises to keep between
    versions; ``rng.shuffle`` and torch's and numpy's permutations come without that promise.
    """
    keyed = [(rng.random(), item) for item in items]
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]
