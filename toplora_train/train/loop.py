"""The training loop, in the order a person tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
from toplora_train.train.processes import all_reduce_max, micro_batches
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
from toplora_train.train.settings import LoopSettings, TrainingData
from toplora_train.train.signals import Interruption
from toplora_train.train.step import forward_backward, update
from toplora_train.train.training_stats import trainable_tensors, training_stats
from toplora_train.train.validation import validation_loss


def train(
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    settings: LoopSettings,
    *,
    start: TrainState,
    accelerator: Accelerator,
    interruption: Interruption,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[StepRecord]:
    """Train from the step after ``start`` to the last one, yielding a record per step.

    Checkpoints are written as ``settings`` says, and when a signal arrives. ``should_stop`` is
    called after each record is consumed; if it returns true, that step is the last.

    Raises:
        RunFailure: a loss or gradient is NaN or inf, an adapter tensor gets no gradient, or the
            disk is full.
        Interrupted: a signal arrived; the step's checkpoint is on disk.
    """
    state, saved, size = start, start.step, settings.micro_batch_size
    dead_tensors = DeadTensors(model)
    evaluate = partial(
        validation_loss, model, accelerator=accelerator, collate=data.collate, loss=data.loss
    )
    model.train()
    if all_reduce_max(int(should_stop()), accelerator):
        return
    for step, epoch, batch in remaining_batches(
        [len(example.input_ids) for example in data.examples],
        after=start.step,
        until=settings.total_steps,
        batch_size=settings.batch_size,
        group_by_length=settings.group_by_length,
        seed=settings.seed,
    ):
        last = step == settings.total_steps
        validate = bool(data.validation) and settings.validates_at(step)
        logged = (
            last or validate or step == 1 or step % settings.log_every == 0 or epoch.is_integer()
        )
        rows = [data.examples[index] for index in batch]
        tokens = sum(len(row.input_ids) for row in rows)
        supervised = sum(row.supervised for row in rows)
        before = trainable_tensors(model) if logged else {}
        began = time.perf_counter()

        lr = settings.learning_rate(step)
        set_learning_rate(optimizer, lr)

        def compute(size: int, rows: Sequence[Any] = rows, terms: int = supervised) -> Tensor:
            return forward_backward(
                model,
                optimizer,
                micro_batches(rows, size=size, accelerator=accelerator, collate=data.collate),
                loss=data.loss,
                supervised_tokens=terms,
                accelerator=accelerator,
            )

        if holds_whole_model(model, accelerator):
            share, size = pass_within_memory(compute, size, accelerator)
        else:  # every pass communicates, so it cannot be repeated by one process alone
            share = compute(size)
        result = update(
            model,
            optimizer,
            share,
            max_grad_norm=settings.max_grad_norm,
            accelerator=accelerator,
        )
        remedy = precision_remedy(model, accelerator.mixed_precision)
        validate_loss(result.loss, step, saved, remedy=remedy)
        if step == start.step + 1:
            validate_gradients_exist(model)
        if accelerator.scaler is None:  # fp16's scaler skips such steps and lowers its factor
            validate_gradients(model, result.grad_norm, step, remedy=remedy)
        dead_tensors.look(lr)
        seconds = time.perf_counter() - began

        held_out = None
        if validate:
            held_out = evaluate(data.validation, micro_batch_size=size)
            validate_loss(held_out, step, saved, remedy=remedy, taken=True)
        state = state.after(
            step, result.loss, seconds=seconds, tokens=tokens, supervised_tokens=supervised
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
            after = evaluate(rows[: accelerator.num_processes], micro_batch_size=size)
            validate_loss(after, step, saved, remedy=remedy, taken=True)
        stopping = all_reduce_max(interruption.signum or 0, accelerator)
        if last or stopping or settings.saves_at(step):
            save_checkpoint(
                settings.checkpoints,
                model=accelerator.unwrap_model(model),
                optimizer=optimizer,
                accelerator=accelerator,
                state=state,
                keep=settings.keep,
            )
            saved = step
        if stopping:
            accelerator.wait_for_everyone()  # a process that left would make the agent stop rank 0
            raise Interrupted(stopping)
        if last:
            return
