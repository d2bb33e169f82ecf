"""Split off validation rows from the training set."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

from toplora_train.config.errors import UserError
from toplora_train.data.shuffle import shuffled


def hold_out(groups: Sequence[Hashable], held: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Draw ``held`` row indices; return (training, validation), each in ascending order.

    Args:
        groups: The group of each row. A group is never divided, so that no copy of a held-out row,
            and no other piece of a held-out text, is trained on; the last may exceed ``held``.
        held: How many to draw.
        seed: The run's seed.

    Raises:
        UserError: No rows would be left for training.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    drawn: set[int] = set()
    for index in shuffled(range(len(groups)), random.Random(f"validation/{seed}")):
        if len(drawn) >= held:
            break
        drawn.update(members[groups[index]])
    if held and len(drawn) >= len(groups):
        raise UserError(
            f"dataset.validation_rows={held} leaves none of the {len(groups)} rows for training; "
            "lower it"
        )
    return [i for i in range(len(groups)) if i not in drawn], sorted(drawn)
