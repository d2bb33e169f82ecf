"""The training loop, in the order a person tells it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from toplora_train.config.errors import Interrupted
from toplora_train.data.overflow import Examples
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
from toplora_train.train.unread import Unread
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

    A process waits for its device at logged steps and before a checkpoint only, so the device
    always has work: the next batch is collated and its kernels are queued while a step is computed.
    What is NaN is found there, before anything is written, and the step at which it began is named.

    Raises:
        RunFailure: a loss or gradient is NaN or inf, an adapter tensor gets no gradient, or the
            disk is full.
        Interrupted: a signal arrived; the step's checkpoint is on disk.
    """
    state, size = start, settings.micro_batch_size
    shown, unread, dead_tensors = start, Unread(), DeadTensors(model)
    remedy = precision_remedy(model, accelerator.mixed_precision)
    saved_at = time.monotonic()

    def settle(state: TrainState, step: int) -> TrainState:
        """Wait for the device, and refuse what it computed if it is NaN or infinite."""
        for taken in unread.read():
            validate_loss(taken.loss, taken.step, remedy=remedy)
            if accelerator.scaler is None:  # fp16's scaler skips such steps and lowers its factor
                validate_gradients(
                    model, taken.grad_norm, taken.step, remedy=remedy, held=taken.step == step
                )
            state = state.after(
                taken.step,
                taken.loss,
                seconds=taken.seconds,
                tokens=taken.tokens,
                supervised_tokens=taken.supervised_tokens,
            )
        dead_tensors.validate()
        return state

    evaluate = partial(
        validation_loss, model, accelerator=accelerator, collate=data.collate, loss=data.loss
    )
    model.train()
    if all_reduce_max(int(should_stop()), accelerator):
        return
    examples = Examples.of(data.examples)
    for step, epoch, batch in remaining_batches(
        examples.lengths,
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
        rows = examples.select(batch)
        tokens, supervised = int(rows.lengths.sum()), int(rows.supervised.sum())
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
            optimizer,
            share,
            max_grad_norm=settings.max_grad_norm,
            accelerator=accelerator,
        )
        if step == start.step + 1:
            validate_gradients_exist(model)
        dead_tensors.look(lr)
        seconds = time.perf_counter() - began
        unread.add(step, result, tokens=tokens, supervised=supervised, seconds=seconds)
        if logged or settings.saves_at(step):
            state = settle(state, step)

        held_out = None
        if validate:
            held_out = evaluate(data.validation, micro_batch_size=size)
            validate_loss(held_out, step, remedy=remedy, taken=True)
        yield StepRecord(
            step=step,
            epoch=epoch,
            loss=state.window_loss / state.window_tokens if logged else None,
            lr=lr,
            grad_norm=float(result.grad_norm) if logged else None,
            tokens=state.tokens + unread.tokens,
            supervised_tokens=state.supervised_tokens + unread.supervised_tokens,
            seconds=state.seconds + unread.seconds,
            tokens_per_second=(state.tokens - shown.tokens) / (state.seconds - shown.seconds)
            if logged
            else None,
            peak_memory_bytes=peak_memory(accelerator.device),
            validation_loss=held_out,
            logged=logged,
            training_stats=training_stats(model, before, state.trend, accelerator.device)
            if logged
            else {},
        )
        if logged:
            state = shown = state.reset_logging_window()

        last = last or bool(all_reduce_max(int(should_stop()), accelerator))
        stopping = all_reduce_max(interruption.signum or 0, accelerator)
        saves = last or bool(stopping) or settings.saves_at(step)
        if settings.save_seconds < math.inf:  # the processes' clocks differ
            due = time.monotonic() - saved_at >= settings.save_seconds
            saves = saves or bool(all_reduce_max(int(due), accelerator))
        if saves:
            state = settle(state, step)
        if last and held_out is None:  # no later step will show what this one did to the weights
            after = evaluate(rows[: accelerator.num_processes], micro_batch_size=size)
            validate_loss(after, step, remedy=remedy, taken=True)
        if saves:
            save_checkpoint(
                settings.checkpoints,
                model=accelerator.unwrap_model(model),
                optimizer=optimizer,
                accelerator=accelerator,
                state=state,
                keep=settings.keep,
            )
            saved_at = time.monotonic()
        if stopping:
            accelerator.wait_for_everyone()  # a process that left would make the agent stop rank 0
            raise Interrupted(stopping)
        if last:
            return
