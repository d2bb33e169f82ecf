"""Which device a worker computes on, and in which precision, through Accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from toplora_train.config.errors import UserError

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_accelerator(*, device: str, mixed_precision: str) -> Accelerator:
    """An Accelerator on the asked device; ``auto`` takes a GPU where there is one.

    Raises:
        UserError: the device is not there, or cannot compute in that precision.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("launch.device=cuda, but torch sees no GPU; use launch.device=auto")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("launch.device=mps, but torch sees no Apple GPU; use launch.device=auto")
    on_cpu = device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if on_cpu and mixed_precision == "fp16":
        raise UserError(
            "trainer.mixed_precision=fp16 needs a GPU; on a CPU use trainer.mixed_precision=no or "
            "bf16"
        )
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed_precision,
    )
