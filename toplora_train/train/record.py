"""The measurements of one optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step; a logged one is a line of ``metrics.jsonl``.

    ``loss`` is per supervised token, of all steps since the last logged one, and
    ``tokens_per_second`` is measured over the same steps. Like ``grad_norm`` they are None in a
    record that is not logged: reading them would wait for the device. ``tokens``,
    ``supervised_tokens`` and ``seconds`` are totals since the run's start. ``training_stats`` is
    measured at logged steps only, see :mod:`toplora_train.train.training_stats` and
    :mod:`toplora_train.train.spikes`.
    """

    step: int
    epoch: float
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens: int
    supervised_tokens: int
    seconds: float
    tokens_per_second: float | None
    peak_memory_bytes: int
    validation_loss: float | None
    logged: bool
    training_stats: Mapping[str, float | str] = field(default_factory=dict)
