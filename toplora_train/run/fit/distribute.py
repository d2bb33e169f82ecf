"""Distribute a model over processes: replicated (DDP), or sharded (ZeRO-2, FSDP2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from peft import PeftModel

from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.schema import RunConfig
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.run_data import RunData
from toplora_train.train.checkpoint import adapter_tensors, set_adapter_tensors
from toplora_train.train.sharding import is_sharded, shard_adapter, shard_model


def prepare_model(
    adapted: PeftModel,
    make_optimizer: Callable[[PeftModel], torch.optim.Optimizer],
    *,
    engine: str,
    accelerator: Accelerator,
) -> tuple[PeftModel, torch.optim.Optimizer]:
    """The distributed model and its optimizer."""
    if engine == "ddp" or accelerator.num_processes == 1:
        model, optimizer = accelerator.prepare(adapted, make_optimizer(adapted))
        return model, optimizer
    if engine == "zero2":
        sharded = shard_adapter(adapted, accelerator.device)
    else:
        sharded = shard_model(adapted)
    return sharded, accelerator.prepare(make_optimizer(sharded))


def unwrap_model(
    model: PeftModel, config: RunConfig, run_data: RunData, *, accelerator: Accelerator
) -> PeftModel:
    """The trained model, unsharded; call it on every rank.

    A sharded model is rebuilt around the adapter, as its shards only compute together.
    """
    if not is_sharded(model):
        unwrapped: PeftModel = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        return unwrapped.eval()
    tensors = adapter_tensors(model)
    base = load_base(config, run_data.location, run_data.objective.head)
    fresh = attach_adapter(base, config.adapter, seed=config.seed)
    set_adapter_tensors(fresh, tensors)
    whole: PeftModel = fresh.to(accelerator.device).eval()
    return whole
