"""Shard the trained parameters, their gradients and optimizer state over processes: ZeRO stage 2.

Paper: arXiv:1910.02054. The base model is replicated (:mod:`toplora_train.models.sharded` shards
it: stage 3). torch's ``fully_shard`` (FSDP2) leaves gradients accessible, so that the training step
is the same as with the other engines.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_adapter(model: PeftModel, device: torch.device) -> PeftModel:
    """Shard the trainable parameters in place (ZeRO stage 2), before building the optimizer.

    An adapter is small, so it is gathered whole for the forward pass and kept until the backward
    pass is done. The base model, quantised or not, moves to ``device`` unsharded.
    """
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    fully_shard(model.to(device), ignored_params=frozen, reshard_after_forward=False)
    return model


def shard_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shard full tensors the way the tensors of the same names and shapes in ``like`` are."""
    sharded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        model = like.get(name)
        if isinstance(model, DTensor) and model.shape == tensor.shape:
            moved = tensor.to(model.device_mesh.device_type)
            sharded[name] = distribute_tensor(moved, model.device_mesh, model.placements)
        else:
            sharded[name] = tensor
    return sharded


def adapter_is_sharded(model: torch.nn.Module) -> bool:
    """Whether any trained parameter is sharded."""
    return any(isinstance(p, DTensor) for p in model.parameters() if p.requires_grad)
