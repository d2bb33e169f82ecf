"""The device and precision of a worker, through Accelerate."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch.distributed.device_mesh import init_device_mesh

from toplora_train.config.errors import UserError
from toplora_train.config.processes import launched_processes
from toplora_train.config.schema import LaunchSettings
from toplora_train.evaluation.ranks import Ranks
from toplora_train.models.half import has_products
from toplora_train.models.sharded import Shards
from toplora_train.run.platform.cpu_malloc import keep_freed_memory, return_freed_memory
from toplora_train.run.platform.cpu_matmul import choose_matmul

# A rank may wait long for the others: for their shard of a test set, or for rank 0 to write. The
# agent notices a rank that dies, not this timeout.
TIMEOUT = timedelta(days=7)

GROUPED = "TRANSFORMERS_SDPA_FORCE_GQA"
CHOSEN_GROUPED = os.environ.get(GROUPED)
"""Whether grouped keys and values are left as they are where rows are padded, instead of repeated
for each query head: the user's choice, or where torch's attention has groups with a mask, on a CPU,
where a step of SmolLM2 takes 8 % less memory (docs/speed.md)."""

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_accelerator(
    device: str,
    mixed_precision: str,
    *,
    deterministic: bool = False,
    save_memory: bool = False,
) -> Accelerator:
    """An Accelerator on the given device; ``auto`` takes a GPU if there is one.

    ``deterministic`` makes torch refuse nondeterministic operations; ``save_memory`` returns freed
    memory to a CPU's system, which takes time.

    Raises:
        UserError: The device is not available, or does not support the precision.
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
        if save_memory:
            return_freed_memory()
        else:
            keep_freed_memory()
    os.environ[GROUPED] = CHOSEN_GROUPED or ("1" if on_cpu else "0")
    if deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # read when the GPU is first used
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False
    # cuDNN's attention, PyTorch's first choice on an H100, is compiled anew for every batch of
    # another length (benchmarks/attention.py).
    torch.backends.cuda.enable_cudnn_sdp(False)
    if (launched_processes() or 1) == 1:
        _forget_other_settings(on_cpu, mixed_precision)
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed_precision,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=TIMEOUT),
            # No communication during a pass, so that it can be retried after running out of memory.
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )


def _forget_other_settings(on_cpu: bool, mixed_precision: str) -> None:
    """Let this process open another accelerator than an earlier call did, as in a notebook."""
    held = AcceleratorState._shared_state
    if held and (held.get("_cpu"), held.get("_mixed_precision")) != (on_cpu, mixed_precision):
        AcceleratorState._reset_state(reset_partial_state=True)


def open_shards(launch: LaunchSettings, accelerator: Accelerator) -> Shards | None:
    """The processes to shard the base model over; None where each holds all of it.

    Raises:
        UserError: ``launch.shard=node``, but the processes of a node are unknown;
            ``launch.offload=cpu`` on a CPU.
    """
    processes, device = accelerator.num_processes, accelerator.device
    if launch.engine not in ("fsdp2", "zero3") or processes == 1:
        return None
    if device.type == "cpu":
        if launch.offload is not None:
            raise UserError(
                "launch.offload=cpu is for GPUs: on a CPU the shards are in its memory already; "
                "leave it out"
            )
        return_freed_memory()
    offload = launch.offload == "cpu"
    if launch.shard == "all":
        return Shards(init_device_mesh(device.type, (processes,)), device, offload)
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    if not here.isdecimal() or processes % int(here):
        raise UserError(
            "launch.shard=node needs the same number of processes on every node; LOCAL_WORLD_SIZE, "
            f"which torchrun sets, is {here or 'not set'} and WORLD_SIZE {processes}"
        )
    shape, names = (processes // int(here), int(here)), ("node", "process")
    return Shards(init_device_mesh(device.type, shape, mesh_dim_names=names), device, offload)


def slow_products(device: torch.device, dtype: str) -> str | None:
    """A line if the device is a CPU without instructions for products in ``dtype``."""
    if device.type != "cpu" or has_products(getattr(torch, dtype)):
        return None
    return (
        f"this processor has no instructions for {dtype}, and training is many times as slow as in "
        "float32: set model.dtype=float32 and trainer.mixed_precision=no"
    )


def local_ranks(accelerator: Accelerator) -> Ranks:
    """The rank among this computer's processes; where torchrun did not count them, there is one."""
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    return Ranks(accelerator.local_process_index, int(here) if here.isdecimal() else 1)


def leave_process_group(accelerator: Accelerator) -> None:
    """Destroy the process group once all ranks are here; no collective can follow."""
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()


def device_name(device: torch.device) -> str:
    """The device as the report names it, a GPU with its model: ``cuda:0 (NVIDIA H100 80GB)``."""
    return (
        f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    )
