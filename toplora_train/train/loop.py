"""The training loop, in the order a person tells it."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from peft import PeftModel

from toplora_train.config.errors import RunFailure
from toplora_train.data.batches import epoch_batches
from toplora_train.train.checkpoint import TrainState, save_checkpoint
from toplora_train.train.optimizer import set_learning_rate
from toplora_train.train.signals import Interruption
from toplora_train.train.step import Batch, Loss, train_step


class TrainingExample(Protocol):
    """What the loop knows of an example; ``supervised`` is the number of terms of its loss."""

    @property
    def input_ids(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def supervised(self) -> int: ...  # noqa: D102


Collate = Callable[[Sequence[Any]], Batch]
"""Examples of the run's kind as tensors."""


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step says of itself; a logged one is a line of ``metrics.jsonl``.

    ``loss`` is per supervised token: of this step, or in a logged record of all steps since the
    last logged one. ``tokens``, ``supervised_tokens`` and ``seconds`` count from the run's start.
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


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps per epoch; a short last batch is a step."""
    return math.ceil(rows / batch_size)


def train(
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    *,
    collate: Collate,
    loss: Loss,
    accelerator: Accelerator,
    learning_rate: Callable[[int], float],
    start: TrainState,
    total_steps: int,
    batch_size: int,
    micro_batch_size: int,
    group_by_length: bool,
    max_grad_norm: float,
    seed: int,
    log_every: int,
    eval_every: int,
    save_every: int,
    keep: int,
    checkpoints: Path,
    interruption: Interruption,
) -> Iterator[StepRecord]:
    """Train from the step after ``start`` to ``total_steps``, yielding a record per step.

    A checkpoint is written every ``save_every`` steps, at the last one, and where a signal came.

    Raises:
        RunFailure: the loss is no number, some adapter tensor has no gradient, or the disk is full.
        Interrupted: a signal came; the checkpoint of the step is on disk.
    """
    state = start
    saved = start.step
    model.train()
    for step, epoch, batch in remaining_batches(
        [len(example.input_ids) for example in examples],
        after=start.step,
        until=total_steps,
        batch_size=batch_size,
        group_by_length=group_by_length,
        seed=seed,
    ):
        began = time.perf_counter()
        rows = [examples[index] for index in batch]
        tokens = sum(len(row.input_ids) for row in rows)
        supervised = sum(row.supervised for row in rows)
        micro_batches = [
            collate(rows[first : first + micro_batch_size])
            for first in range(0, len(rows), micro_batch_size)
        ]

        lr = learning_rate(step)
        set_learning_rate(optimizer, lr)
        result = train_step(
            model,
            optimizer,
            micro_batches,
            loss=loss,
            supervised_tokens=supervised,
            max_grad_norm=max_grad_norm,
            accelerator=accelerator,
        )
        refuse_bad_loss(result.loss, step, saved)
        if step == start.step + 1:
            refuse_missing_gradients(model)

        seconds = time.perf_counter() - began
        state = replace(
            state,
            step=step,
            seconds=state.seconds + seconds,
            tokens=state.tokens + tokens,
            supervised_tokens=state.supervised_tokens + supervised,
            window_loss=state.window_loss + result.loss * supervised,
            window_tokens=state.window_tokens + supervised,
        )
        last = step == total_steps
        validate = bool(validation) and (last or (eval_every > 0 and step % eval_every == 0))
        logged = last or validate or step == 1 or step % log_every == 0
        yield StepRecord(
            step=step,
            epoch=epoch,
            loss=state.window_loss / state.window_tokens if logged else result.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            tokens=state.tokens,
            supervised_tokens=state.supervised_tokens,
            seconds=state.seconds,
            tokens_per_second=tokens / seconds,
            peak_memory_bytes=peak_memory(accelerator.device),
            validation_loss=validation_loss(
                model, validation, accelerator, micro_batch_size, collate=collate, loss=loss
            )
            if validate
            else None,
            logged=logged,
        )
        if logged:
            state = replace(state, window_loss=0.0, window_tokens=0)

        stopping = interruption.signum is not None
        if last or stopping or (save_every > 0 and step % save_every == 0):
            save_checkpoint(
                checkpoints,
                model=accelerator.unwrap_model(model),
                optimizer=optimizer,
                scaler=accelerator.scaler,
                state=state,
                keep=keep,
            )
            saved = step
        interruption.raise_if_asked()


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


def refuse_bad_loss(loss: float, step: int, saved: int) -> None:
    """Stop a run whose loss is not a number; its weights have not taken the step."""
    if math.isfinite(loss):
        return
    kept = (
        f"the checkpoint of step {saved} is the last good one"
        if saved
        else "no checkpoint was due yet"
    )
    raise RunFailure(
        f"the loss is {loss} at step {step}; {kept}. Lower optimizer.lr, or train in "
        "trainer.mixed_precision=bf16 instead of fp16"
    )


def refuse_missing_gradients(model: torch.nn.Module) -> None:
    """Stop a run in which part of the adapter is not trained."""
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if missing:
        raise RunFailure(
            f"{len(missing)} adapter tensors got no gradient in the first step, {missing[0]} among "
            "them: the model's forward pass does not reach them. Leave these modules out of "
            "adapter.target_modules"
        )


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module,
    examples: Sequence[TrainingExample],
    accelerator: Accelerator,
    micro_batch_size: int,
    *,
    collate: Collate,
    loss: Loss,
) -> float:
    """Loss per supervised token over ``examples``, without dropout; back to training mode after."""
    model.eval()
    total = 0.0
    ordered = sorted(examples, key=lambda example: len(example.input_ids))
    for first in range(0, len(ordered), micro_batch_size):
        batch = collate(ordered[first : first + micro_batch_size])
        total += float(loss(model, batch, accelerator.device))
    model.train()
    return total / sum(example.supervised for example in examples)


def peak_memory(device: torch.device) -> int:
    """The most bytes used so far: allocated on a GPU, resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
