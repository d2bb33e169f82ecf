"""Each process keeps a part of the tensors, of their gradients and of the optimizer's state.

ZeRO (arXiv:1910.02054) names the stages: the second shares out gradients and optimizer state, which
only what is trained has, and leaves the base model whole; the third shares out the base model too,
a layer of which is gathered while it computes. Both are torch's own ``fully_shard`` (FSDP2), with
which gradients stay tensors that can be looked at and the step stays that of the other engines.
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
    """Share out what is trained, in place (ZeRO stage 2); the optimizer is made after.

    An adapter is small: all of it is gathered for a forward pass and kept until its gradients are
    there. The base model moves to ``device`` as it is, quantised or not.
    """
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    fully_shard(model.to(device), ignored_params=frozen, reshard_after_forward=False)
    return model


def shard_model(model: PeftModel) -> PeftModel:
    """Share out every tensor, in place (ZeRO stage 3); the optimizer is made after.

    A group per layer of the model; what belongs to no layer, the shared tensors of TensLoRA among
    it, is in the group of the whole model.
    """
    layers = set(getattr(model.get_base_model(), "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module)
    fully_shard(model)
    return model


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor, gathered if it is shared out; then all processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, shared out as those of the same names and shapes are."""
    shared: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        pattern = like.get(name)
        if isinstance(pattern, DTensor) and pattern.shape == tensor.shape:
            moved = tensor.to(pattern.device_mesh.device_type)
            shared[name] = distribute_tensor(moved, pattern.device_mesh, pattern.placements)
        else:
            shared[name] = tensor
    return shared


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether a process holds only a part of the model."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
