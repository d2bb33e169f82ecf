"""Training data that holds test rows: known by name, or found by looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from toplora_train.config.errors import UserError

KNOWN = {
    "math_data.json": "LLM-Adapters' math_data.json holds about 80 % of six math test sets",
}


def validate_sources(sources: Sequence[str], *, allowed: Sequence[str]) -> None:
    """Refuse files that are known to hold test rows.

    Args:
        sources: What is to be trained on.
        allowed: Names of such files that are wanted all the same.

    Raises:
        UserError: names the file, what it holds and how to have it nevertheless.
    """
    for source in sources:
        name = PurePosixPath(source.rpartition(":")[2]).name
        if name in KNOWN and name not in allowed:
            raise UserError(
                f"{source}: {KNOWN[name]}; train on something else (dataset=math_10k), or say that "
                f"you mean it: dataset.allow_leaks=[{name}]"
            )


def validate_overlap(
    found: Mapping[str, Sequence[str]], sizes: Mapping[str, int], *, most: float
) -> None:
    """Refuse training rows that hold too much of a test set.

    Args:
        found: For each test set the ids of the rows that are trained on.
        sizes: The number of rows of each test set.
        most: The largest share that is let be; 1 lets all.

    Raises:
        UserError: names the test set, how many of its rows are trained on and some of them.
    """
    for name, ids in found.items():
        if len(ids) / sizes[name] > most:
            raise UserError(
                f"{len(ids)} of the {sizes[name]} test rows of {name} are asked in the training "
                f"rows too ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}); remove them, "
                "or raise dataset.max_overlap to have them counted only"
            )
