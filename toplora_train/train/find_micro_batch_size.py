"""Find the largest micro-batch that fits in memory, and halve it when memory runs out later.

The loss is normalised by the whole step's tokens, so the micro-batch size changes nothing else. If
one process runs out of memory, all of them halve.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from toplora_train.data.overflow import Examples
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
    """The most rows whose forward and backward pass fit in memory, tried on the longest rows.

    It is ``most``, or a half, a quarter... of it; with several processes, what fits on all of them.
    Gradients are cleared afterwards and the RNG states restored.
    """
    longest = longest_of(examples, most)
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


def longest_of(examples: Sequence[TrainingExample], count: int) -> Sequence[TrainingExample]:
    """The ``count`` longest examples, the longest first."""
    counted = Examples.of(examples)
    return counted.select(np.argsort(-counted.lengths, kind="stable")[:count])


def pass_within_memory(
    attempt: Callable[[int], Result], size: int, accelerator: Accelerator
) -> tuple[Result, int]:
    """Run ``attempt(size)``, halving ``size`` for as long as any process runs out of memory.

    ``attempt`` must not communicate with other processes: if one of them runs out of memory, all
    repeat it from the same RNG state.

    Returns:
        The result of ``attempt``, and the size that fits.

    Raises:
        RuntimeError: not even one row fits.
    """
    before = own_random_state(accelerator.device)
    while True:
        result = _unless_out_of_memory(attempt, size)
        failed = all_reduce_max(int(result is None), accelerator)
        if result is not None and not failed:
            return result, size
        result = None
        # Outside the except block, whose traceback keeps the failed pass's tensors alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        set_own_random_state(before, accelerator.device)
        size = max(1, size // 2)
        logger.warning("out of memory; retrying with trainer.micro_batch_size=%d", size)


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
