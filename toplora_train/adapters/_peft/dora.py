"""PEFT's DoRA, and how to replace the way it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from peft import PeftModel
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from toplora_train.models.sharded import full_tensor

DoraVariant: TypeAlias = DoraLinearVariant
"""PEFT's computation of DoRA in one linear layer."""


def replace_dora(model: PeftModel, make_variant: Callable[[], DoraVariant]) -> None:
    """Compute DoRA with another variant in every layer; parameters and file format stay PEFT's.

    Raises:
        ValueError: An adapted layer is not linear (an embedding, for example).
    """
    for name, module in model.named_modules():
        for adapter_name, variant in getattr(module, "lora_variant", {}).items():
            if type(variant) is not DoraVariant:
                raise ValueError(f"target_modules matches {name}, which is not a linear layer")
            module.lora_variant[adapter_name] = make_variant()


def frozen_weight(layer: BaseTunerLayer) -> Tensor:
    """The base layer's weight ``(out_features, in_features)``, dequantised and unsharded."""
    base_layer: Any = layer.get_base_layer()
    own = base_layer.weight
    weight: Tensor = full_tensor(dequantize_module_weight(base_layer))
    if base_layer.weight is not own:  # on the CPU PEFT makes an 8-bit weight anew, without scales
        base_layer.weight = own
    return weight.T if isinstance(base_layer, Conv1D) else weight


def validate_readable(name: str, base_layer: nn.Module) -> None:
    """Refuse a layer whose frozen weight cannot be read before its first forward pass.

    Raises:
        ValueError: It is an 8-bit layer on the CPU.
    """
    weight: Any = getattr(base_layer, "weight", None)
    if type(weight).__name__ == "Int8Params" and weight.device.type == "cpu":
        raise ValueError(
            f"{name} is an 8-bit layer on the CPU, whose weight cannot be read there; use a 4-bit "
            "base, or a GPU"
        )
