"""Shard parameters, gradients and optimizer state over processes.

The stages are ZeRO's (arXiv:1910.02054): stage 2 shards gradients and optimizer state, here those
of the adapter, and replicates the base model; stage 3 shards the base model too and gathers each
layer while it computes. Both use torch's ``fully_shard`` (FSDP2), which leaves gradients
accessible, so that the training step is the same as with the other engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

Module = TypeVar("Module", bound=torch.nn.Module)


def shard_adapter(model: PeftModel, device: torch.device) -> PeftModel:
    """Shard the trainable parameters in place (ZeRO stage 2), before building the optimizer.

    An adapter is small, so it is gathered whole for the forward pass and kept until the backward
    pass is done. The base model, quantised or not, moves to ``device`` unsharded.
    """
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    fully_shard(model.to(device), ignored_params=frozen, reshard_after_forward=False)
    return model


def shard_model(model: PeftModel) -> PeftModel:
    """Shard every parameter in place (ZeRO stage 3), before building the optimizer.

    Each layer is one FSDP unit; parameters outside the layers, such as TensLoRA's shared tensors,
    belong to the root unit.
    """
    layers = set(getattr(model.get_base_model(), "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module)
    fully_shard(model)
    return model


def full_tensor(tensor: Tensor) -> Tensor:
    """The unsharded tensor; a collective if it is sharded, so call it on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether any parameter is sharded."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
