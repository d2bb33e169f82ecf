"""Distribute a task's rows over processes.

Whole batches are distributed, the same ones that a single process would form, so that a row's batch
does not depend on the number of processes, except where rows join a batch as others end (generated
answers) or are sorted again (cloze); there answers are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of processes; by default a single one."""

    rank: int = 0
    world_size: int = 1

    def __str__(self) -> str:
        """The suffix of a task's name in the progress: empty for a single process."""
        return f", process {self.rank + 1} of {self.world_size}" if self.world_size > 1 else ""

    @property
    def first(self) -> bool:
        """Whether this is the main process, which writes files and shows progress."""
        return self.rank == 0

    def share(self, order: Sequence[Item], batch_size: int) -> list[Item]:
        """This process's items of ``order``: every ``world_size``-th batch."""
        starts = range(self.rank * batch_size, len(order), self.world_size * batch_size)
        return [item for start in starts for item in order[start : start + batch_size]]

    def gather(self, items: list[Item]) -> list[Item]:
        """All-gather the items; call it on every process."""
        if self.world_size == 1:
            return items
        from torch import distributed  # imported here, as rescoring does not need torch

        parts: list[list[Item]] = [[] for _ in range(self.world_size)]
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def broadcast(self, value: Item) -> Item:
        """The main process's value; call it on every process."""
        if self.world_size == 1:
            return value
        from torch import distributed

        box = [value if self.first else None]
        distributed.broadcast_object_list(box, src=0)
        (received,) = box
        assert received is not None
        return received


ALONE = Ranks()
