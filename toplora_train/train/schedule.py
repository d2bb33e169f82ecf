"""The learning rate as a pure function of the step, so that there is no schedule state to lose."""

from __future__ import annotations

import math


def warmup_length(total_steps: int, warmup_steps: int | None, warmup_ratio: float) -> int:
    """The number of warm-up steps; ``warmup_steps`` wins over ``warmup_ratio`` of the total."""
    return warmup_steps if warmup_steps is not None else math.ceil(total_steps * warmup_ratio)


def learning_rate_factor(
    step: int, *, total_steps: int, warmup: int, schedule: str, from_zero: bool = False
) -> float:
    """What the peak learning rate is multiplied with at ``step`` (1 is the first).

    During warm-up the factor is ``step / (warmup + 1)``, so that every step trains; then it is 1
    (constant), falls to 0 in a straight line (linear) or as half a cosine (cosine), over the
    remaining steps. ``from_zero`` is the warm-up of transformers' schedules, ``(step - 1) /
    warmup``, whose first step trains nothing: published settings were run with it.
    """
    done = step - 1
    if done < warmup:
        return done / warmup if from_zero else step / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = (done - warmup) / max(1, total_steps - warmup)
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
