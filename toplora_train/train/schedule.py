"""The learning rate as a pure function of the step, so there is no scheduler state to save."""

from __future__ import annotations

import math


def warmup_length(total_steps: int, warmup_steps: int | None, warmup_ratio: float) -> int:
    """The number of warm-up steps; ``warmup_steps`` takes precedence over ``warmup_ratio``."""
    return warmup_steps if warmup_steps is not None else math.ceil(total_steps * warmup_ratio)


def learning_rate_factor(
    step: int, *, total_steps: int, warmup: int, schedule: str, from_zero: bool = False
) -> float:
    """The factor of the peak learning rate at ``step`` (counted from 1).

    During warm-up it is ``step / (warmup + 1)``, so that every step trains; then it stays at 1
    (constant) or decays to 0 over the remaining steps, linearly (linear) or as half a cosine
    (cosine). ``from_zero`` is transformers' warm-up, ``(step - 1) / warmup``, whose first step has
    a rate of 0; published settings were run with it.
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
