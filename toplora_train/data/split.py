"""Split off validation rows from the training set."""

from __future__ import annotations

import random

from toplora_train.config.errors import UserError
from toplora_train.data.shuffle import shuffled


def hold_out(rows: int, held: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Draw ``held`` of ``rows`` indices; return (training, validation), each in ascending order.

    Raises:
        UserError: No rows would be left for training.
    """
    if held >= rows:
        raise UserError(
            f"dataset.validation_rows={held} leaves none of the {rows} rows for training; lower it"
        )
    drawn = set(shuffled(range(rows), random.Random(f"validation/{seed}"))[:held])
    return [i for i in range(rows) if i not in drawn], sorted(drawn)
