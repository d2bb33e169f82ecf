"""Micro-batches that fit the memory: the largest before the first step, half of it when in need.

The loss is normalised by the tokens of the whole step, so their size changes nothing else.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from toplora_train.train.processes import (
    Collate,
    agree,
    random_states,
    restore_random_state,
)
from toplora_train.train.step import Loss, StepResult, TrainingExample

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def largest_micro_batch(
    model: nn.Module,
    examples: Sequence[TrainingExample],
    *,
    most: int,
    collate: Collate,
    loss: Loss,
    accelerator: Accelerator,
) -> int:
    """The most rows whose forward and backward pass fit, tried on the longest rows.

    It is ``most``, or a half, a quarter... of it; with several processes what fits all of them.
    The model is left without gradients, and the random generators as they were.
    """
    longest = longest_first(examples)
    before = random_states(accelerator)
    model.train()

    def attempt(size: int) -> int:
        with accelerator.autocast():
            summed = loss(model, collate(longest[:size]), accelerator.device)
        summed.backward()  # type: ignore[no-untyped-call]  # torch's is
        return size

    try:
        _, size = _halving(attempt, min(most, len(longest)), lambda: _release(model))
    finally:
        _release(model)
        restore_random_state(before, accelerator)
    return -agree(-size, accelerator)


def longest_first(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """Examples by their length."""
    return sorted(examples, key=lambda example: -len(example.input_ids))


def step_that_fits(
    step: Callable[[int], StepResult], size: int, accelerator: Accelerator
) -> tuple[StepResult, int]:
    """Take a step, with half the micro-batch as often as it runs out of memory.

    Returns:
        The step's result, and the size that it fitted with.

    Raises:
        RuntimeError: a single row does not fit; or there are several processes, which cannot take
            back what they have exchanged.
    """
    if accelerator.num_processes > 1:
        return step(size), size
    before = random_states(accelerator)
    return _halving(step, size, lambda: restore_random_state(before, accelerator))


def _halving(
    attempt: Callable[[int], Result], size: int, after_failure: Callable[[], None]
) -> tuple[Result, int]:
    while True:
        try:
            return attempt(size), size
        except RuntimeError as error:
            if size == 1 or not should_reduce_batch_size(error):
                raise
        # Outside of the handler, which holds the frames of the failed pass and their tensors.
        after_failure()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = max(1, size // 2)
        logger.warning("out of memory; going on with trainer.micro_batch_size=%d", size)


def _release(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
