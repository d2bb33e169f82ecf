"""What an optimizer step says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepRecord:
    """A step in numbers; a logged one is a line of ``metrics.jsonl``.

    ``loss`` is per supervised token: of this step, or in a logged record of all steps since the
    last logged one. ``tokens``, ``supervised_tokens`` and ``seconds`` count from the run's start.
    ``watched`` holds what is measured at logged steps besides, see :mod:`toplora_train.train.watch`
    and :mod:`toplora_train.train.spikes`.
    """

    step: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    supervised_tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    validation_loss: float | None
    logged: bool
    watched: Mapping[str, float | str] = field(default_factory=dict)
