"""Describes the adapter on a model: parameter counts, mergeability, tensors as saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import peft
import torch
from peft import PeftModel

from toplora_train.adapters.base import AdapterLinear, FrozenTensors, adapter_prefixes
from toplora_train.adapters.lora_start import HalfFrozen
from toplora_train.adapters.peft import UNMERGEABLE


def count_adapter_parameters(model: PeftModel) -> int:
    """The number of parameters in the adapter's own tensors; works on the meta device."""
    prefixes = adapter_prefixes(model)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if any(part.startswith(prefixes) for part in name.split("."))
    )


def trainable_parameters_by_module(model: PeftModel) -> dict[str, int]:
    """Trainable parameters by the last name of the adapted module, such as ``q_proj``.

    Tensors shared by several modules are counted under ``shared``.
    """
    prefixes = adapter_prefixes(model)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_adapted_module(name.split("."), prefixes)] += parameter.numel()
    return dict(counts)


def _adapted_module(parts: Sequence[str], prefixes: tuple[str, ...]) -> str:
    for index, part in enumerate(parts):
        if part.startswith(prefixes) or part in ("modules_to_save", "base_layer"):
            return "shared" if parts[index - 1] == "base_model" else parts[index - 1]
    return parts[-2]  # a trained bias of the base model


def describe_adapter(model: PeftModel) -> dict[str, Any]:
    """``peft_type``, ``trainable_parameters`` (of the adapter, frozen or not) and ``mergeable``."""
    layers = [module for module in model.modules() if isinstance(module, AdapterLinear)]
    frozen = [module.frozen for module in model.modules() if isinstance(module, HalfFrozen)]
    peft_type = str(model.peft_type.value)
    return {
        "peft_type": peft_type,
        "trainable_parameters": sum(tensor.numel() for tensor in _own_tensors(model))
        - sum(tensor.numel() for tensor in frozen),
        "mergeable": peft_type not in UNMERGEABLE
        and not getattr(model.active_peft_config, "alora_invocation_tokens", None)
        and all(layer.can_merge(name) for layer in layers for name in layer.configs),
    }


def _own_tensors(model: PeftModel) -> list[torch.Tensor]:
    """The adapter's tensors without the frozen ones, one that is saved under two names once."""
    held = peft.get_peft_model_state_dict(
        model, state_dict=model.state_dict(keep_vars=True), save_embedding_layers=False
    )
    frozen = {
        id(tensor)
        for module in model.modules()
        if isinstance(module, FrozenTensors)
        for tensor in module.buffers()
    }
    return [t for key, t in {id(t): t for t in held.values()}.items() if key not in frozen]


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors, keyed by their names in a checkpoint."""
    tensors: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(
        model, save_embedding_layers=False
    )
    return tensors
