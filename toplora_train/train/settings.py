"""What the training loop works on, and how: plain values, frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toplora_train.train.processes import Collate
from toplora_train.train.step import Loss, TrainingExample


@dataclass(frozen=True)
class TrainingData:
    """The examples, and what turns them into a loss.

    Attributes:
        examples: The examples to train on.
        validation: Those held out; empty: there is no validation loss.
        collate: Makes tensors of the examples of a micro-batch.
        loss: The sum of a batch's loss over its supervised tokens or labels.
    """

    examples: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]
    collate: Collate
    loss: Loss


@dataclass(frozen=True)
class LoopSettings:
    """How the examples are stepped through.

    Attributes:
        total_steps: Optimizer steps of the whole run.
        learning_rate: The learning rate of a step, counted from 1.
        batch_size: Rows per optimizer step over all processes.
        micro_batch_size: Rows per forward pass of a process.
        group_by_length: Whether rows of similar length are batched together.
        max_grad_norm: Gradients are clipped to this norm; 0: they are measured only.
        seed: Decides the order of the rows.
        log_every: Steps between logged records.
        eval_every: Steps between validation losses; 0: at the last step only.
        save_every: Steps between checkpoints; 0: at the last step only.
        save_seconds: Seconds after a checkpoint when another one is due; infinity: never.
        keep: Number of newest checkpoints to keep.
        checkpoints: Their folder.
    """

    total_steps: int
    learning_rate: Callable[[int], float]
    batch_size: int
    micro_batch_size: int
    group_by_length: bool
    max_grad_norm: float
    seed: int
    log_every: int
    eval_every: int
    save_every: int
    save_seconds: float
    keep: int
    checkpoints: Path

    def validates_at(self, step: int) -> bool:
        """Whether the validation loss is due after a step."""
        return step == self.total_steps or (self.eval_every > 0 and step % self.eval_every == 0)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        return step == self.total_steps or (self.save_every > 0 and step % self.save_every == 0)
