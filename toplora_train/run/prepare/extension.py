"""``resume=extend``: where an extended run continues, and how it differs from a longer run.

The order of the rows does not depend on a run's length, so an extended run sees them like a run of
the greater length. The learning rate may depend on it, by its schedule or by a warm-up that is a
share of the steps: the earlier steps then differ from the longer run's, and this is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toplora_train.config.kinds import selects_by_loss
from toplora_train.config.schema import RunConfig
from toplora_train.report.earlier import EarlierEnd
from toplora_train.run.fit.best_checkpoint import selects
from toplora_train.run.fit.optimization import learning_rate
from toplora_train.train.sampler import steps_in_epoch


@dataclass(frozen=True)
class Extension:
    """An extension of a run.

    Attributes:
        ends: Where the run ended before.
        total: The number of steps it is extended to.
        differences: How it differs from a run of ``total`` steps from the start, in sentences.
    """

    ends: Sequence[EarlierEnd]
    total: int
    differences: Sequence[str]

    def __str__(self) -> str:
        after = ", then ".join(f"{end.step:,}" for end in self.ends)
        text = f"The run had ended after step {after} and is extended to {self.total:,}"
        if not self.differences:
            return f"{text}, identical to a run of that length from the start."
        return f"{text}. It differs from a run of that length: {' '.join(self.differences)}"

    def to_dict(self) -> dict[str, Any]:
        """The extension as the report records it."""
        return {
            "ends": [{"step": end.step, "command": end.command} for end in self.ends],
            "differences": list(self.differences),
        }


def find_extension(
    config: RunConfig, ends: Sequence[EarlierEnd], *, resumed_step: int, total: int, rows: int
) -> Extension | None:
    """The extension of a run with earlier ends; None for a run without.

    Args:
        config: The extended run.
        ends: Its earlier ends.
        resumed_step: The step of the checkpoint it continues from.
        total: Its new number of steps.
        rows: The number of training rows.
    """
    if not ends:
        return None
    differences = []
    trained = [end.step for end in ends if end.step <= resumed_step] or [resumed_step]
    if differing := _other_rates(config, ends, resumed_step=resumed_step, total=total):
        differences.append(differing)
    extra = [step for step in trained if _validated_as_last_step_only(config, step, rows)]
    if extra:
        steps = ", ".join(map(str, extra))
        differences.append(f"The held-out rows were also evaluated after step {steps}.")
    return Extension(ends, total, differences)


def _other_rates(
    config: RunConfig, ends: Sequence[EarlierEnd], *, resumed_step: int, total: int
) -> str | None:
    """A sentence on the steps whose learning rate differs from a run of ``total`` steps."""
    protocol = config.evaluation.protocol
    now = learning_rate(config.optimizer, total_steps=total, protocol=protocol)
    done = 0
    for end in ends:
        last = min(end.step, resumed_step)
        then = learning_rate(config.optimizer, total_steps=end.step, protocol=protocol)
        step = next((step for step in range(done + 1, last + 1) if then(step) != now(step)), None)
        if step is not None:
            return (
                f"Steps {done + 1} to {last} used the learning rates of a run of {end.step} steps "
                f"({_depends(config)}), for example {then(last):.4g} at step {last} instead of "
                f"{now(last):.4g}; from step {last + 1} on they are those of {total} steps, "
                f"starting at {now(last + 1):.4g}."
            )
        done = last
    return None


def _depends(config: RunConfig) -> str:
    optimizer = config.optimizer
    if optimizer.schedule != "constant":
        return f"optimizer.schedule={optimizer.schedule}"
    return f"optimizer.warmup_ratio={optimizer.warmup_ratio}"


def _validated_as_last_step_only(config: RunConfig, step: int, rows: int) -> bool:
    """Whether the held-out rows were evaluated at a step only because it was the last one."""
    if not selects(config):
        return False
    if config.trainer.eval_every and step % config.trainer.eval_every == 0:
        return False
    by_epoch = not selects_by_loss(config)
    return not (by_epoch and step % steps_in_epoch(rows, config.trainer.batch_size) == 0)
