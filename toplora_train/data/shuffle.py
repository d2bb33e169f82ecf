"""Shuffling that is reproducible on every machine and version of Python."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def shuffled(items: Iterable[Item], rng: random.Random) -> list[Item]:
    """A permutation of ``items`` as a new list.

    It uses only ``rng.random()``, which Python guarantees to be stable across versions;
    ``rng.shuffle`` and torch's and numpy's permutations have no such guarantee.
    """
    keyed = [(rng.random(), item) for item in items]
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]
