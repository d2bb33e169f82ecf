"""One optimizer step: forward, loss on the answers, backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from toplora_train.train.sharding import whole

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
    A loss or a gradient that is no number leaves the weights as they were.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=accelerator.device)
    for index, micro in enumerate(micro_batches):
        last = index == len(micro_batches) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                summed = micro.weight * loss(model, micro.batch, accelerator.device)
            share = summed / supervised_tokens
            # Processes average their gradients; this is already the share of the whole.
            accelerator.backward(share * accelerator.num_processes)
        total += share.detach()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = float(whole(accelerator.clip_grad_norm_(trainable, max_grad_norm or float("inf"))))
    mean = float(accelerator.reduce(total))
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


@contextmanager
def logits_only_at(model: nn.Module, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Inside, the model's logits are of these N positions only: ``(1, N, vocabulary)``."""
    inner: Any = getattr(model, "module", model)  # DDP's wrapper hides it
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    def select(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden[rows, positions][None], *rest)

    handle = base.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
