"""One optimizer step in two halves: forward and backward, then clip and update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from toplora_train.models.sharded import full_tensor
from toplora_train.train.all_reduce import average_gradients
from toplora_train.train.logits import logits_only_at
from toplora_train.train.token_loss import token_loss

IGNORED = -100

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch, torch.device], Tensor]
"""The summed loss over a batch's supervised tokens or, with a head, labels."""


class TrainingExample(Protocol):
    """What training needs of an example; ``supervised`` is the number of terms of its loss."""

    @property
    def input_ids(self) -> tuple[int, ...]: ...  # noqa: D102  # its name says it

    @property
    def supervised(self) -> int: ...  # noqa: D102  # its name says it


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward pass; ``weight`` is 0 on a process that has no rows of its own."""

    batch: Batch
    weight: float = 1.0


@dataclass(frozen=True)
class StepResult:
    """Loss per supervised token over all micro-batches, and the gradient's norm before clipping.

    Both are on the device: reading them waits for the step to be computed.
    """

    loss: Tensor
    grad_norm: Tensor


def forward_backward(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[MicroBatch],
    *,
    loss: Loss,
    supervised_tokens: int,
    accelerator: Accelerator,
) -> Tensor:
    """Accumulate this process's gradients; return its share of the step's loss.

    The loss is summed over the step's supervised tokens and divided by ``supervised_tokens``, their
    number over all processes, so neither the number of micro-batches nor of processes changes it.
    DDP does not communicate here, so the call can be repeated with smaller micro-batches.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=accelerator.device)
    for micro in micro_batches:
        with accelerator.no_sync(model):
            with accelerator.autocast():
                summed = micro.weight * loss(model, micro.batch, accelerator.device)
            share = summed / supervised_tokens
            # Gradients are averaged over processes later, but their shares must be summed.
            accelerator.backward(share * accelerator.num_processes)
        total += share.detach()
    return total


def update(
    optimizer: torch.optim.Optimizer,
    share: Tensor,
    *,
    max_grad_norm: float,
    accelerator: Accelerator,
) -> StepResult:
    """Average the optimizer's gradients over processes, clip them, and take one step.

    With ``max_grad_norm`` 0 gradients are not clipped. Nothing here waits for the device (unless
    fp16's gradient scaler does), so a loss or gradient that is NaN reaches the weights: whoever
    reads the result refuses them, see :class:`toplora_train.train.unread.Unread`.
    """
    trainable = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Gradients of sharded parameters arrive averaged.
    average_gradients([p for p in trainable if not isinstance(p, DTensor)], accelerator)
    norm = full_tensor(accelerator.clip_grad_norm_(trainable, max_grad_norm or float("inf")))
    mean = accelerator.reduce(share)
    optimizer.step()
    return StepResult(loss=mean, grad_norm=norm)


def supervised_loss(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """The sum of -log p(token) over a batch's supervised tokens.

    Logits are computed at supervised positions only: with few answer tokens and a large vocabulary
    that saves most of the memory and much of the time.
    """
    targets = batch["labels"][:, 1:]
    rows, positions = (targets != IGNORED).nonzero(as_tuple=True)  # of tensors on the CPU
    with logits_only_at(model, on_device(rows, device), on_device(positions, device)):
        inputs = {name: on_device(batch[name], device) for name in batch if name != "labels"}
        logits = model(**inputs, use_cache=False).logits[0]
    return token_loss(logits.float(), on_device(targets[rows, positions], device))


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to a GPU it is copied from pinned memory, so nobody waits for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
