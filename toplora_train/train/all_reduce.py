"""Average the gradients of data-parallel processes once per step.

DDP would do so during the last backward pass, where one process that runs out of memory leaves the
others hanging. An adapter's gradients are small, so overlapping the all-reduce gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def holds_whole_model(model: nn.Module, accelerator: Accelerator) -> bool:
    """Whether this process holds an unsharded model: a single process, or DDP.

    With a sharded model or adapter every pass communicates.
    """
    return accelerator.num_processes == 1 or isinstance(model, DistributedDataParallel)


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """All-reduce the gradients to their mean over all processes, in place.

    A gradient that is None on some processes counts as zero there; None on all stays None.
    """
    if accelerator.num_processes == 1 or not parameters:
        return
    has_grad = torch.tensor([p.grad is not None for p in parameters], device=accelerator.device)
    counts = accelerator.reduce(has_grad.float(), reduction="sum").tolist()
    reduced = [p for p, count in zip(parameters, counts, strict=True) if count]
    for dtype in sorted({p.dtype for p in reduced}, key=str):
        _average([_gradient(p) for p in reduced if p.dtype == dtype], accelerator)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _average(gradients: list[Tensor], accelerator: Accelerator) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = accelerator.reduce(flat, reduction="mean")
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
