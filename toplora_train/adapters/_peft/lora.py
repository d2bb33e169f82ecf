"""PEFT's LoRA layer with this package's forward; class, parameters and files stay PEFT's."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from toplora_train.adapters.fused import can_fuse, fused_linear
from toplora_train.adapters.low_rank import LowRank


class FusedLora(Linear):
    """PEFT's ``lora.Linear``: ``y = W0 x + s B A drop(x)`` in one function where that applies.

    Not with several active adapters, LoRA variants (DoRA), a bias in B, mixed batches, or merged or
    disabled adapters: those are PEFT's own forward.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As PEFT's: ``(..., in_features) -> (..., out_features)``."""
        chosen = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or len(chosen) != 1 or self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        name = chosen[0]
        A, B = self.lora_A[name], self.lora_B[name]
        plain = type(A) is type(B) is nn.Linear and A.bias is None and B.bias is None
        hooked = plain and (A._forward_hooks or B._forward_hooks)
        if name in self.lora_variant or not plain or hooked:
            return super().forward(x, *args, **kwargs)
        if not can_fuse(x, self.base_layer, A.weight.dtype):
            return super().forward(x, *args, **kwargs)
        factors = LowRank(A.weight, B.weight, self.scaling[name])
        return fused_linear(x, self.base_layer, factors, self.lora_dropout[name])


def use_kernel(model: nn.Module, kernel: str) -> None:
    """Compute PEFT's LoRA layers with this package's forward (``fused``) or PEFT's (``peft``)."""
    current, wanted = (Linear, FusedLora) if kernel == "fused" else (FusedLora, Linear)
    for module in model.modules():
        if type(module) is current:
            module.__class__ = wanted
