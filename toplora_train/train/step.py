"""One optimizer step in two halves: forward, loss on the answers, backward; then clip, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from toplora_train.train.all_reduce import average_gradients, holds_whole_model
from toplora_train.train.logits import logits_only_at
from toplora_train.train.sharding import full_tensor

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


def forward_backward(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[MicroBatch],
    *,
    loss: Loss,
    supervised_tokens: int,
    accelerator: Accelerator,
) -> Tensor:
    """The share of this process in the step's loss, whose gradients are left on the parameters.

    The loss is the sum over every supervised token of the step divided by ``supervised_tokens``,
    the number of them in the whole step over all processes. So neither the number of micro-batches
    nor of processes changes it. Nothing is exchanged: it can be taken again with smaller ones.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=accelerator.device)
    for micro in micro_batches:
        with accelerator.no_sync(model):
            with accelerator.autocast():
                summed = micro.weight * loss(model, micro.batch, accelerator.device)
            share = summed / supervised_tokens
            # Processes average their gradients; this is already the share of the whole.
            accelerator.backward(share * accelerator.num_processes)
        total += share.detach()
    return total


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    share: Tensor,
    *,
    max_grad_norm: float,
    accelerator: Accelerator,
) -> StepResult:
    """Update the adapter once, by the mean of all processes' gradients.

    ``max_grad_norm`` 0 means that gradients are measured, not clipped. A loss or a gradient that is
    no number leaves the weights as they were.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if holds_whole_model(model, accelerator):
        average_gradients(trainable, accelerator)
    norm = float(full_tensor(accelerator.clip_grad_norm_(trainable, max_grad_norm or float("inf"))))
    mean = float(accelerator.reduce(share))
    # What is no number must not reach the weights; fp16's scaler skips such a step itself.
    if math.isfinite(mean) and (math.isfinite(norm) or accelerator.scaler is not None):
        optimizer.step()
    return StepResult(loss=mean, grad_norm=norm)


def supervised_loss(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """The sum of -log p(token) over the supervised tokens of a batch.

    Only supervised positions go through the vocabulary projection, whatever the model does to its
    logits afterwards: with few answer tokens and a large vocabulary that is most of the memory and
    a good part of the time.
    """
    targets = batch["labels"][:, 1:]
    rows, positions = (targets != IGNORED).nonzero(as_tuple=True)
    with logits_only_at(model, rows.to(device), positions.to(device)):
        inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits[0]
    return functional.cross_entropy(
        logits.float(), targets[rows, positions].to(device), reduction="sum"
    )
