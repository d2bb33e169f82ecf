"""Micro-batches that fit the memory: the largest before the first step, half of it when in need.

The loss is normalised by the tokens of the whole step, so their size changes nothing else. Of
several processes all halve when one has to.
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
    all_reduce_max,
    own_random_state,
    set_own_random_state,
)
from toplora_train.train.step import Loss, TrainingExample

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def find_micro_batch_size(
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
    model.train()

    def attempt(size: int) -> int:
        _release(model)
        with accelerator.autocast():
            summed = loss(model, collate(longest[:size]), accelerator.device)
        summed.backward()  # type: ignore[no-untyped-call]  # torch's is
        return size

    before = own_random_state(accelerator.device)
    try:
        return pass_within_memory(attempt, min(most, len(longest)), accelerator)[1]
    finally:
        _release(model)
        set_own_random_state(before, accelerator.device)


def longest_first(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """Examples by their length."""
    return sorted(examples, key=lambda example: -len(example.input_ids))


def pass_within_memory(
    attempt: Callable[[int], Result], size: int, accelerator: Accelerator
) -> tuple[Result, int]:
    """Compute with a micro-batch of ``size``, or half of it, as often as some process cannot.

    ``attempt`` must exchange nothing with other processes: where one of them runs out of memory,
    all take the pass again, with the random numbers that they had.

    Returns:
        What ``attempt`` gave, and the size that it fitted with.

    Raises:
        RuntimeError: a single row does not fit.
    """
    before = own_random_state(accelerator.device)
    while True:
        result = _unless_out_of_memory(attempt, size)
        failed = all_reduce_max(int(result is None), accelerator)
        if result is not None and not failed:
            return result, size
        result = None
        # Outside of the handler, which holds the frames of the failed pass and their tensors.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        set_own_random_state(before, accelerator.device)
        size = max(1, size // 2)
        logger.warning("out of memory; going on with trainer.micro_batch_size=%d", size)


def _unless_out_of_memory(attempt: Callable[[int], Result], size: int) -> Result | None:
    try:
        return attempt(size)
    except RuntimeError as error:
        if size == 1 or not should_reduce_batch_size(error):
            raise
    return None


def _release(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
