"""A run that is trained for longer than it was to be: where it goes on, and what that changes.

The rows' order does not depend on a run's length, so an extended run steps through them as one that
had the greater length from the start. The learning rate may depend on it, by its schedule or by a
warm-up that is a share of the steps: what was trained before is then not what the longer run would
have trained, and this is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toplora_train.config.schema import RunConfig
from toplora_train.report.earlier import EarlierEnd
from toplora_train.run.fit.best_checkpoint import selects
from toplora_train.run.fit.optimization import learning_rate
from toplora_train.run.fit.selection_metric import selects_by_loss
from toplora_train.train.sampler import steps_in_epoch


@dataclass(frozen=True)
class Extension:
    """An extension under way or done.

    Attributes:
        ends: Where the run ended before.
        total: The steps that it is extended to.
        differences: What is not as in a run of ``total`` steps from the start, in sentences.
    """

    ends: Sequence[EarlierEnd]
    total: int
    differences: Sequence[str]

    def __str__(self) -> str:
        after = ", then ".join(f"{end.step:,}" for end in self.ends)
        said = f"The run had ended after step {after} and is extended to {self.total:,}"
        if not self.differences:
            return f"{said}: as a run of that length from the start, step by step."
        return (
            f"{said}. It is not a run of that length from the start: {' '.join(self.differences)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """What the report records."""
        return {
            "ends": [{"step": end.step, "command": end.command} for end in self.ends],
            "differences": list(self.differences),
        }


def find_extension(
    config: RunConfig, ends: Sequence[EarlierEnd], *, resumed_step: int, total: int, rows: int
) -> Extension | None:
    """The extension of a run with earlier ends; None of a run that has none.

    Args:
        config: The run as it is extended.
        ends: Its earlier ends.
        resumed_step: The step of the checkpoint that it goes on from.
        total: Its steps now.
        rows: That are trained on.
    """
    if not ends:
        return None
    differences = []
    trained = [end.step for end in ends if end.step <= resumed_step] or [resumed_step]
    if differing := _other_rates(config, ends, resumed_step=resumed_step, total=total):
        differences.append(differing)
    judged = [step for step in trained if _judged_as_last_step_only(config, step, rows)]
    if judged:
        steps = ", ".join(map(str, judged))
        differences.append(f"The held-out rows were judged after step {steps} too.")
    return Extension(ends, total, differences)


def _other_rates(
    config: RunConfig, ends: Sequence[EarlierEnd], *, resumed_step: int, total: int
) -> str | None:
    """The first step whose learning rate was another one than in a run of ``total`` steps."""
    now = learning_rate(config.optimizer, total_steps=total)
    done = 0
    for end in ends:
        last = min(end.step, resumed_step)
        then = learning_rate(config.optimizer, total_steps=end.step)
        step = next((step for step in range(done + 1, last + 1) if then(step) != now(step)), None)
        if step is not None:
            return (
                f"Steps {done + 1} to {last} had the learning rates of {end.step} steps "
                f"({_depends(config)}), such as {then(last):.4g} at step {last}, where a run of "
                f"{total} has {now(last):.4g}; from step {last + 1} on it is that of {total} "
                f"steps, {now(last + 1):.4g} at first."
            )
        done = last
    return None


def _depends(config: RunConfig) -> str:
    optimizer = config.optimizer
    if optimizer.schedule != "constant":
        return f"optimizer.schedule={optimizer.schedule}"
    return f"optimizer.warmup_ratio={optimizer.warmup_ratio}"


def _judged_as_last_step_only(config: RunConfig, step: int, rows: int) -> bool:
    """Whether the held-out rows were judged at a step because it was the last one."""
    if not selects(config):
        return False
    if config.trainer.eval_every and step % config.trainer.eval_every == 0:
        return False
    by_epoch = not selects_by_loss(config)
    return not (by_epoch and step % steps_in_epoch(rows, config.trainer.batch_size) == 0)
