"""Which device a worker computes on, and in which precision, through Accelerate."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from toplora_train.config.errors import UserError
from toplora_train.run.platform.cpu_malloc import keep_freed_memory
from toplora_train.run.platform.cpu_matmul import choose_matmul

# A process may wait long for the others: their share of a test set, or the first one's writing. One
# that dies is noticed by the agent, not by this.
PATIENCE = timedelta(days=7)

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_accelerator(
    *, device: str, mixed_precision: str, deterministic: bool = False
) -> Accelerator:
    """An Accelerator on the asked device; ``auto`` takes a GPU where there is one.

    ``deterministic`` makes torch refuse operations whose result differs from run to run.

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
    if on_cpu:
        choose_matmul()
        keep_freed_memory()
    if deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # read when the GPU is first used
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed_precision,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            # No exchange during a pass: one that runs out of memory can be taken again.
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )


def leave_process_group(accelerator: Accelerator) -> None:
    """Part with the other processes, all at the same place; nothing can be exchanged after it."""
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()
