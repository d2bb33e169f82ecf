"""The gradients of several processes that each hold the whole model, averaged once per step.

DDP would do it during the last backward pass, where one process that runs out of memory leaves the
others waiting for ever. An adapter's gradients are small: nothing is won by sending them earlier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def holds_whole_model(model: nn.Module, accelerator: Accelerator) -> bool:
    """Whether a process computes on its own: alone, or with a copy of the model (DDP).

    Where the tensors are shared out every pass is an exchange, and gradients come averaged.
    """
    return accelerator.num_processes == 1 or isinstance(model, DistributedDataParallel)


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Give every process the mean of all processes' gradients.

    One that a process alone lacks counts as zero there; one that all lack stays missing.
    """
    if accelerator.num_processes == 1:
        return
    here = torch.tensor([p.grad is not None for p in parameters], device=accelerator.device)
    somewhere = accelerator.reduce(here.float(), reduction="sum").tolist()
    held = [p for p, processes in zip(parameters, somewhere, strict=True) if processes]
    for dtype in sorted({p.dtype for p in held}, key=str):
        _average([_gradient(p) for p in held if p.dtype == dtype], accelerator)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _average(gradients: list[Tensor], accelerator: Accelerator) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = accelerator.reduce(flat, reduction="mean")
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
