"""The training loop, in the order a person tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from toplora_train.config.errors import Interrupted
from toplora_train.train.all_reduce import holds_whole_model
from toplora_train.train.checkpoint import TrainState, save_checkpoint
from toplora_train.train.find_micro_batch_size import pass_within_memory
from toplora_train.train.optimizer import set_learning_rate
from toplora_train.train.processes import Collate, all_reduce_max, micro_batches
from toplora_train.train.record import StepRecord
from toplora_train.train.sampler import remaining_batches
from toplora_train.train.sanity_checks import (
    DeadTensors,
    peak_memory,
    precision_remedy,
    validate_gradients,
    validate_gradients_exist,
    validate_loss,
)
from toplora_train.train.signals import Interruption
from toplora_train.train.step import Loss, TrainingExample, forward_backward, update
from toplora_train.train.training_stats import trainable_tensors, training_stats
from toplora_train.train.validation import validation_loss


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
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[StepRecord]:
    """Train from the step after ``start`` to ``total_steps``, yielding a record per step.

    A checkpoint is written every ``save_every`` steps, at the last one, and where a signal came.
    ``enough``, asked once a step's record is taken in, makes that step the last.

    Raises:
        RunFailure: the loss is no number, some adapter tensor has no gradient, or the disk is full.
        Interrupted: a signal came; the checkpoint of the step is on disk.
    """
    state = start
    saved = start.step
    dead_tensors = DeadTensors(model)
    model.train()
    if all_reduce_max(int(should_stop()), accelerator):
        return
    for step, epoch, batch in remaining_batches(
        [len(example.input_ids) for example in examples],
        after=start.step,
        until=total_steps,
        batch_size=batch_size,
        group_by_length=group_by_length,
        seed=seed,
    ):
        last = step == total_steps
        validate = bool(validation) and (last or (eval_every > 0 and step % eval_every == 0))
        logged = last or validate or step == 1 or step % log_every == 0 or epoch.is_integer()
        rows = [examples[index] for index in batch]
        tokens = sum(len(row.input_ids) for row in rows)
        supervised = sum(row.supervised for row in rows)
        before = trainable_tensors(model) if logged else {}
        began = time.perf_counter()

        lr = learning_rate(step)
        set_learning_rate(optimizer, lr)

        def compute(size: int, rows: Sequence[Any] = rows, terms: int = supervised) -> Tensor:
            return forward_backward(
                model,
                optimizer,
                micro_batches(rows, size=size, accelerator=accelerator, collate=collate),
                loss=loss,
                supervised_tokens=terms,
                accelerator=accelerator,
            )

        if holds_whole_model(model, accelerator):
            share, micro_batch_size = pass_within_memory(compute, micro_batch_size, accelerator)
        else:  # each pass is an exchange, which cannot be taken back
            share = compute(micro_batch_size)
        result = update(
            model, optimizer, share, max_grad_norm=max_grad_norm, accelerator=accelerator
        )
        remedy = precision_remedy(model, accelerator.mixed_precision)
        validate_loss(result.loss, step, saved, remedy=remedy)
        if step == start.step + 1:
            validate_gradients_exist(model)
        if accelerator.scaler is None:  # which skips such steps, and lowers its factor
            validate_gradients(model, result.grad_norm, step, remedy=remedy)
        dead_tensors.look(lr)

        def loss_now(rows: Sequence[Any], size: int = micro_batch_size) -> float:
            return validation_loss(
                model,
                rows,
                accelerator=accelerator,
                micro_batch_size=size,
                collate=collate,
                loss=loss,
            )

        seconds = time.perf_counter() - began
        held_out = loss_now(validation) if validate else None
        if held_out is not None:
            validate_loss(held_out, step, saved, remedy=remedy, taken=True)
        state = replace(
            state,
            step=step,
            seconds=state.seconds + seconds,
            tokens=state.tokens + tokens,
            supervised_tokens=state.supervised_tokens + supervised,
            window_loss=state.window_loss + result.loss * supervised,
            window_tokens=state.window_tokens + supervised,
            trend=state.trend.after(result.loss, step),
        )
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
            validation_loss=held_out,
            logged=logged,
            training_stats=training_stats(model, before, state.trend, accelerator.device)
            if logged
            else {},
        )
        if logged:
            state = state.reset_logging_window()

        last = last or bool(all_reduce_max(int(should_stop()), accelerator))
        if last and held_out is None:  # no later step will show what this one did to the weights
            after = loss_now(rows[: accelerator.num_processes])
            validate_loss(after, step, saved, remedy=remedy, taken=True)
        stopping = all_reduce_max(interruption.signum or 0, accelerator)
        if last or stopping or (save_every > 0 and step % save_every == 0):
            save_checkpoint(
                checkpoints,
                model=accelerator.unwrap_model(model),
                optimizer=optimizer,
                accelerator=accelerator,
                state=state,
                keep=keep,
            )
            saved = step
        if stopping:
            accelerator.wait_for_everyone()  # one that left would have the agent end the writer
            raise Interrupted(stopping)
        if last:
            return
