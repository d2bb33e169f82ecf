"""PEFT's LoRA layer with this package's forward; class, parameters and files stay PEFT's."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora.layer import Linear
from peft.tuners.lora.variants import ALoraLinearVariant
from torch import Tensor, nn

from toplora_train.adapters.fused import can_fuse, fused_linear
from toplora_train.adapters.low_rank import LowRank


class FusedLora(Linear):
    """PEFT's ``lora.Linear``: ``y = W0 x + s B A drop(x)`` in one function where that applies.

    DoRA with the factored norm, too, where dropout does not apply: its second product of the frozen
    weight with drop(x) is a step of its own. Not with several active adapters, other variants, a
    bias in B, mixed batches, or merged or disabled adapters: those are PEFT's own forward.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As PEFT's: ``(..., in_features) -> (..., out_features)``."""
        chosen = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or len(chosen) != 1 or self.disable_adapters or self.merged:
            return self._as_peft(x, *args, **kwargs)
        name = chosen[0]
        A, B, variant = self.lora_A[name], self.lora_B[name], self.lora_variant.get(name)
        if not self.fuses(name, x, self.training):
            return self._as_peft(x)
        factors = LowRank(_weight(A), _weight(B), self.scaling[name])
        y = fused_linear(x, self.base_layer, factors, self.lora_dropout[name])
        return y if variant is None else variant.scaled(self, name, y)

    def fuses(self, name: str, x: Tensor, training: bool) -> bool:
        """Whether the function computes this layer with this adapter, for inputs such as ``x``."""
        variant = self.lora_variant.get(name)
        dropped = training and isinstance(self.lora_dropout[name], nn.Dropout)
        plain = variant is None or (hasattr(variant, "scaled") and not dropped)
        A, B = self.lora_A[name], self.lora_B[name]
        if not (plain and _is_plain(A) and _is_plain(B)):
            return False
        return can_fuse(x, self.base_layer, _weight(A).dtype)

    def _as_peft(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = super().forward(x, *args, **kwargs)
        return y


def _is_plain(layer: nn.Module) -> bool:
    unbiased = getattr(layer, "bias", None) is None
    return type(layer) is nn.Linear and unbiased and not layer._forward_hooks


def _weight(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]  # of a linear layer
    return weight


def is_activated(layer: Any, adapter_name: str) -> bool:
    """Whether the adapter is an Activated LoRA: plain factors, for some positions only."""
    return isinstance(layer.lora_variant.get(adapter_name), ALoraLinearVariant)


def use_kernel(model: nn.Module, kernel: str) -> None:
    """Compute PEFT's LoRA layers with this package's forward (``fused``) or PEFT's (``peft``)."""
    current, wanted = (Linear, FusedLora) if kernel == "fused" else (FusedLora, Linear)
    for module in model.modules():
        if type(module) is current:
            module.__class__ = wanted
