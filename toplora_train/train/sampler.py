"""The order of the training rows: a function of the seed, so the step gives the position."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from toplora_train.data.batches import Lengths, epoch_batches


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps per epoch; a short last batch counts as one."""
    return math.ceil(rows / batch_size)


def steps_for_tokens(
    tokens: int, lengths: Lengths, *, batch_size: int, group_by_length: bool, seed: int
) -> int:
    """The number of steps needed to train on at least ``tokens`` tokens.

    Args:
        tokens: The token budget; padding does not count.
        lengths: Tokens of each row.
        batch_size: Rows per step.
        group_by_length: As in the run; it decides which rows share a step.
        seed: The run's seed.
    """
    sizes = np.asarray(lengths)
    epochs, left = divmod(tokens, int(sizes.sum()))
    steps = epochs * steps_in_epoch(len(lengths), batch_size)
    batches = epoch_batches(
        lengths, batch_size=batch_size, seed=seed, epoch=epochs, group_by_length=group_by_length
    )
    for batch in batches:
        if left <= 0:
            break
        left -= int(sizes[batch].sum())
        steps += 1
    return steps


def remaining_batches(
    lengths: Lengths,
    *,
    after: int,
    until: int,
    batch_size: int,
    group_by_length: bool,
    seed: int,
) -> Iterator[tuple[int, float, list[int]]]:
    """Yield ``(step, epochs completed after it, row indices)`` for ``after + 1`` to ``until``.

    The order depends on the seed and epoch only, so resuming needs no sampler state.
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
