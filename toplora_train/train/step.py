"""One optimizer step: forward, loss on the answers, backward, clip, update."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch, torch.device], Tensor]
"""The sum of a batch's loss over what it supervises: tokens or, with a head, labels."""


class TrainingExample(Protocol):
    """What training knows of an example; ``supervised`` is the number of terms of its loss."""

    @property
    def input_ids(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def supervised(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass; ``weight`` 0 where a process computes only to keep in step."""

    batch: Batch
    weight: float = 1.0


@dataclass(frozen=True)
class StepResult:
    """Loss per supervised token over all micro-batches, and the gradient's norm before clipping."""

    loss: float
    grad_norm: float


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[MicroBatch],
    *,
    loss: Loss,
    supervised_tokens: int,
    max_grad_norm: float,
    accelerator: Accelerator,
) -> StepResult:
    """Update the adapter once.

    The loss is the sum over every supervised token of the step divided by ``supervised_tokens``,
    the number of them in the whole step over all processes. So neither the number of micro-batches
    nor of processes changes it. ``max_grad_norm`` 0 means that gradients are measured, not clipped.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=accelerator.device)
    for index, micro in enumerate(micro_batches):
        last = index == len(micro_batches) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            summed = micro.weight * loss(model, micro.batch, accelerator.device)
            share = summed / supervised_tokens
            # Processes average their gradients; this is already the share of the whole.
            accelerator.backward(share * accelerator.num_processes)
        total += share.detach()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = accelerator.clip_grad_norm_(trainable, max_grad_norm or float("inf"))
    mean = float(accelerator.reduce(total))
    if math.isfinite(mean):  # what is no number must not reach the weights
        optimizer.step()
    return StepResult(loss=mean, grad_norm=float(norm))


def supervised_loss(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """The sum of -log p(token) over the supervised tokens of a batch.

    Only the positions that some row supervises go through the vocabulary projection: with few
    answer tokens and a large vocabulary that is most of the memory and a good part of the time.
    """
    targets = batch["labels"][:, 1:]
    positions = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    targets = targets[:, positions].to(device)
    inputs = {
        "input_ids": batch["input_ids"].to(device),
        "attention_mask": batch["attention_mask"].to(device),
    }
    if accepts_logits_to_keep(model):
        logits = model(**inputs, logits_to_keep=positions.to(device), use_cache=False).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, positions.to(device)]
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def accepts_logits_to_keep(model: nn.Module) -> bool:
    """Whether the model can compute logits at chosen positions only."""
    inner: Any = getattr(model, "module", model)  # DDP's wrapper hides it
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return "logits_to_keep" in inspect.signature(base.forward).parameters
