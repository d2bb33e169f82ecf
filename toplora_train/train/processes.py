"""Several processes: which rows are whose, and what all of them have to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from toplora_train.train.step import Batch, MicroBatch

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Collate = Callable[[Sequence[Any]], Batch]
"""Examples of the run's kind as tensors."""


def shares(rows: Sequence[Row], *, size: int, processes: int) -> list[list[list[Row]]]:
    """The rows of a step as micro-batches of each process: ``[micro-batch][process][row]``.

    Neighbours, which are of like length, are dealt out one by one, so that all processes pad and
    compute alike. The last micro-batch may be shorter for some processes, and empty.
    """
    together = size * processes
    return [
        [list(rows[first : first + together][process::processes]) for process in range(processes)]
        for first in range(0, len(rows), together)
    ]


def micro_batches(
    rows: Sequence[Any], *, size: int, accelerator: Accelerator, collate: Collate
) -> list[MicroBatch]:
    """This process's part of the rows that all of them step on together.

    All processes get equally many micro-batches, as each has to join in every exchange. One that
    has no row left computes another's, with weight 0.
    """
    dealt = shares(rows, size=size, processes=accelerator.num_processes)
    mine = [of_all[accelerator.process_index] for of_all in dealt]
    return [
        MicroBatch(collate(part or of_all[0][:1]), weight=1.0 if part else 0.0)
        for part, of_all in zip(mine, dealt, strict=True)
    ]


def all_reduce_max(value: int, accelerator: Accelerator) -> int:
    """The largest of the processes' numbers: of a signal that only some have got, say."""
    if accelerator.num_processes == 1:
        return value
    return int(accelerator.reduce(torch.tensor(value, device=accelerator.device), reduction="max"))


def random_states(accelerator: Accelerator) -> dict[str, Tensor]:
    """The states of all processes' generators, ``(processes, bytes)``, by kind of device."""
    return {
        name: accelerator.gather(state[None].to(accelerator.device)).cpu()
        for name, state in own_random_state(accelerator.device).items()
    }


def own_random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's generators, ``(bytes)``, by kind of device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_own_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put this process's generators into these states."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def restore_random_state(states: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Put this process's generators back as they were.

    With another number of processes than before there is no state to go on from: the order of the
    rows is the same, but dropout draws other masks, and the log says so.
    """
    stored = len(states["cpu"])
    if stored != accelerator.num_processes:
        logger.warning(
            "the checkpoint is of %d processes, this run has %d: the rows come in the same order, "
            "but dropout draws other masks",
            stored,
            accelerator.num_processes,
        )
        return
    # A clone: torch reads a state from the start of its storage, which a row shares with others.
    mine = {name: state[accelerator.process_index].clone() for name, state in states.items()}
    set_own_random_state(mine, accelerator.device)
