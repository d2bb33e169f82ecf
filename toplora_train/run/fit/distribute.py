"""Distribute training: gradients averaged (DDP), the adapter sharded (ZeRO-2), or as loaded."""

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
from toplora_train.train.sharding import adapter_is_sharded, shard_adapter


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
        shard_adapter(adapted, accelerator.device)
    return adapted, accelerator.prepare(make_optimizer(adapted))


def unwrap_model(
    model: PeftModel, config: RunConfig, run_data: RunData, *, accelerator: Accelerator
) -> PeftModel:
    """The trained model, its adapter unsharded; call it on every rank.

    Around a sharded adapter the model is rebuilt, as its shards only compute together.
    """
    if not adapter_is_sharded(model):
        unwrapped: PeftModel = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        return unwrapped.eval()
    tensors = adapter_tensors(model)
    base = load_base(config, run_data.location, run_data.objective.head)
    fresh = attach_adapter(base, config.adapter, seed=config.seed)
    set_adapter_tensors(fresh, tensors)
    whole: PeftModel = fresh.to(accelerator.device).eval()
    return whole
