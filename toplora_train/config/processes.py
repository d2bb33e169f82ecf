"""The processes that torchrun, ``accelerate launch`` or a script started, by their environment."""

from __future__ import annotations

import os

from toplora_train.config.errors import UserError

NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
REMEDY = (
    "start the command with torchrun or accelerate launch, or unset WORLD_SIZE and let "
    "launch.processes start the processes"
)


def launched_processes() -> int | None:
    """The number of processes that a launcher has started (``WORLD_SIZE``); None without one.

    Raises:
        UserError: The environment does not describe processes that can find each other.
    """
    given = os.environ.get("WORLD_SIZE")
    if given is None:
        return None
    if not given.isdecimal() or int(given) < 1:
        raise UserError(
            f"WORLD_SIZE={given} in the environment is not a number of processes; {REMEDY}"
        )
    count = int(given)
    distributed = count > 1 or "RANK" in os.environ or "LOCAL_RANK" in os.environ
    missing = [name for name in NEEDED if distributed and not os.environ.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE={given} is in the environment, but not {', '.join(missing)}; {REMEDY}"
        )
    rank_given = os.environ.get("RANK", "0")
    if not rank_given.isdecimal() or int(rank_given) >= count:
        raise UserError(f"RANK={rank_given} is not one of WORLD_SIZE={given} processes; {REMEDY}")
    return count


def rank() -> int:
    """This process's rank; 0 without a launcher, or if it does not give a number."""
    given = os.environ.get("RANK", "0")
    return int(given) if given.isdecimal() else 0
