"""Several processes answer the rows of a task together.

Whole batches are dealt out, the very batches that one process would make, so that a row stands
beside the same rows however many processes there are and its answer is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among those that answer together; by default there is no other."""

    rank: int = 0
    world_size: int = 1

    def __str__(self) -> str:
        """What stands behind a task's name: nothing, or that it is one process's share."""
        return f", process {self.rank + 1} of {self.world_size}" if self.world_size > 1 else ""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes the files and shows the progress."""
        return self.rank == 0

    def share(self, order: Sequence[Item], batch_size: int) -> list[Item]:
        """Return this process's items of ``order``: every ``world_size``-th batch."""
        starts = range(self.rank * batch_size, len(order), self.world_size * batch_size)
        return [item for start in starts for item in order[start : start + batch_size]]

    def gather(self, mine: list[Item]) -> list[Item]:
        """Return the items of all processes, in all of them; each has to ask."""
        if self.world_size == 1:
            return mine
        from torch import distributed  # here, as stored answers are judged without torch

        parts: list[list[Item]] = [[] for _ in range(self.world_size)]
        distributed.all_gather_object(parts, mine)
        return [item for part in parts for item in part]

    def broadcast(self, value: Item) -> Item:
        """Return the first process's value, in all of them; each has to ask."""
        if self.world_size == 1:
            return value
        from torch import distributed

        box = [value if self.first else None]
        distributed.broadcast_object_list(box, src=0)
        (agreed,) = box
        assert agreed is not None
        return agreed


ALONE = Ranks()
