"""FSDP2: each process keeps a part of every tensor and gathers a layer while it computes with it.

Torch's own ``fully_shard``, a group per layer of the model; what belongs to no layer, the shared
tensors of TensLoRA among it, is in the group of the whole model.
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


def shard(model: PeftModel) -> PeftModel:
    """Share the model's tensors out over all processes, in place; the optimizer is made after."""
    layers = set(getattr(model.get_base_model(), "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module)
    fully_shard(model)
    return model


def whole(tensor: Tensor) -> Tensor:
    """A tensor, gathered if it is shared out; then all processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_out_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def is_shared_out(model: torch.nn.Module) -> bool:
    """Whether a process holds only a part of the model."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
