"""Splitting a step's rows among processes, and the state they must agree on."""

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
"""Turns examples into a batch of tensors."""


def shares(rows: Sequence[Row], *, size: int, processes: int) -> list[list[Sequence[Row]]]:
    """Split a step's rows into micro-batches: ``[micro-batch][process][row]``.

    Neighbouring rows have similar lengths and are dealt out round-robin, so that all processes pad
    and compute about equally. The last micro-batch may be shorter or empty on some processes.
    """
    global_size = size * processes
    return [
        [rows[at : at + global_size][process::processes] for process in range(processes)]
        for at in range(0, len(rows), global_size)
    ]


def micro_batches(
    rows: Sequence[Any], *, size: int, accelerator: Accelerator, collate: Collate
) -> list[MicroBatch]:
    """This process's micro-batches of a step's rows, of which it reads its own only.

    Every process gets the same number, as each must take part in every collective. A process
    without rows left computes another's row with weight 0.
    """
    split = shares(rows, size=size, processes=accelerator.num_processes)
    own = [by_process[accelerator.process_index] for by_process in split]
    return [
        MicroBatch(collate(list(part or by_process[0][:1])), weight=1.0 if part else 0.0)
        for part, by_process in zip(own, split, strict=True)
    ]


def all_reduce_max(value: int, accelerator: Accelerator) -> int:
    """The maximum of ``value`` over all processes."""
    if accelerator.num_processes == 1:
        return value
    return int(accelerator.reduce(torch.tensor(value, device=accelerator.device), reduction="max"))


def random_states(accelerator: Accelerator) -> dict[str, Tensor]:
    """The RNG states of all processes, ``(processes, bytes)``, by device type."""
    return {
        name: accelerator.gather(state[None].to(accelerator.device)).cpu()
        for name, state in own_random_state(accelerator.device).items()
    }


def own_random_state(device: torch.device) -> dict[str, Tensor]:
    """This process's RNG states, ``(bytes)``, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_own_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set this process's RNG states."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def restore_random_state(states: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Restore this process's RNG states from a checkpoint's.

    If the number of processes has changed there is none to restore: the rows keep their order, but
    dropout masks differ, and a warning is logged.
    """
    stored = len(states["cpu"])
    if stored != accelerator.num_processes:
        logger.warning(
            "the checkpoint was saved by %d processes, this run has %d: the rows keep their order, "
            "but dropout masks will differ",
            stored,
            accelerator.num_processes,
        )
        return
    # Cloned: torch reads a state from the start of its storage, and a row is a view.
    mine = {name: state[accelerator.process_index].clone() for name, state in states.items()}
    set_own_random_state(mine, accelerator.device)
