"""Which rows are stepped on when: a function of the seed, so that the position is the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from toplora_train.data.batches import epoch_batches


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps per epoch; a short last batch is a step."""
    return math.ceil(rows / batch_size)


def steps_for_tokens(
    tokens: int, lengths: Sequence[int], *, batch_size: int, group_by_length: bool, seed: int
) -> int:
    """The first step after which at least ``tokens`` tokens of rows have been trained on.

    Args:
        tokens: What is to be gone through; padding does not count.
        lengths: Tokens of each row.
        batch_size: Rows of a step.
        group_by_length: As in the run: it decides which rows a step holds.
        seed: The run's.
    """
    epochs, left = divmod(tokens, sum(lengths))
    steps = epochs * steps_in_epoch(len(lengths), batch_size)
    batches = epoch_batches(
        lengths, batch_size=batch_size, seed=seed, epoch=epochs, group_by_length=group_by_length
    )
    for batch in batches:
        if left <= 0:
            break
        left -= sum(lengths[index] for index in batch)
        steps += 1
    return steps


def remaining_batches(
    lengths: Sequence[int],
    *,
    after: int,
    until: int,
    batch_size: int,
    group_by_length: bool,
    seed: int,
) -> Iterator[tuple[int, float, list[int]]]:
    """Steps ``after + 1`` to ``until`` as (step, epochs done after it, row indices).

    The order is a function of the seed and the epoch, so the position in the data is the step.
    """
    per_epoch = steps_in_epoch(len(lengths), batch_size)
    for epoch in range(after // per_epoch, math.ceil(until / per_epoch)):
        batches = epoch_batches(
            lengths, batch_size=batch_size, seed=seed, epoch=epoch, group_by_length=group_by_length
        )
        for position, batch in enumerate(batches, start=1):
            step = epoch * per_epoch + position
            if after < step <= until:
                yield step, epoch + position / per_epoch, batch
