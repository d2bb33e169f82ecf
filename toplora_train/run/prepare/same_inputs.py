"""The processes of a run must read the same files; their digests are compared before training."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence

from toplora_train.config.errors import UserError
from toplora_train.evaluation.ranks import Ranks
from toplora_train.models.identity import model_digest
from toplora_train.report.environment import environment
from toplora_train.run.prepare.run_data import RunData


def validate_same_inputs(run_data: RunData, ranks: Ranks) -> None:
    """Compare what every process has read; call it on each of them.

    Raises:
        UserError: On every process, if one has read something else than the first.
    """
    if ranks.world_size == 1:
        return
    line = difference(ranks.gather([(platform.node(), digests(run_data))]))
    if line is not None:
        raise UserError(line)


def digests(run_data: RunData) -> dict[str, str]:
    """A digest of each input, by its name in a sentence."""
    return {
        "base model": model_digest(run_data.location),
        "training rows": run_data.rows.sha256,
        "tokens": hashlib.sha256(run_data.lengths.tobytes()).hexdigest(),
        **{f"test rows of {one.name}": one.rows.sha256 for one in run_data.eval_sets},
        **{f"version of {name}": number for name, number in environment()["packages"].items()},
    }


def difference(found: Sequence[tuple[str, Mapping[str, str]]]) -> str | None:
    """What differs first from process 0, given every process's computer and digests."""
    (first_host, first), *_ = found
    for rank, (host, theirs) in enumerate(found):
        for name in [*first, *theirs]:
            if theirs.get(name) != first.get(name):
                values = " and ".join(
                    f"{digests.get(name, 'none')[:12]} (process {number}, {computer})"
                    for number, computer, digests in (
                        (0, first_host, first),
                        (rank, host, theirs),
                    )
                )
                return (
                    f"the processes differ in the {name}: {values}; every node needs the same "
                    "files and packages: copy them, or put them on a shared disk"
                )
    return None
