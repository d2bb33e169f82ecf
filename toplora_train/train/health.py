"""What a run is stopped for, and what it takes."""

from __future__ import annotations

import math
import resource
import sys

import torch

from toplora_train.config.errors import RunFailure


def refuse_bad_loss(loss: float, step: int, saved: int) -> None:
    """Stop a run whose loss is not a number; its weights have not taken the step."""
    if math.isfinite(loss):
        return
    kept = (
        f"the checkpoint of step {saved} is the last good one"
        if saved
        else "no checkpoint was due yet"
    )
    raise RunFailure(
        f"the loss is {loss} at step {step}; {kept}. Lower optimizer.lr, or train in "
        "trainer.mixed_precision=bf16 instead of fp16"
    )


def refuse_missing_gradients(model: torch.nn.Module) -> None:
    """Stop a run in which part of the adapter is not trained."""
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if missing:
        raise RunFailure(
            f"{len(missing)} adapter tensors got no gradient in the first step, {missing[0]} among "
            "them: the model's forward pass does not reach them. Leave these modules out of "
            "adapter.target_modules"
        )


def peak_memory(device: torch.device) -> int:
    """The most bytes used so far: allocated on a GPU, resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
