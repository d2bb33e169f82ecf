"""The low-rank factors of adapters whose update is a fixed matrix product, and effective ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toplora_train.adapters.base import AdapterLinear
from toplora_train.config.errors import UserError


def fixed_factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """``A`` (r, in) and ``B`` (out, r) of the adapter ``default``, by module.

    Empty if the update is not such a product: TopLoRA's depends on the token, DoRA's on the weight.
    """
    factors = {}
    for name, module in model.named_modules():
        path = name.removeprefix("module.").removeprefix("base_model.model.")
        A, B = (getattr(module, name, None) for name in ("lora_A", "lora_B"))
        if isinstance(A, nn.ModuleDict) and isinstance(B, nn.ModuleDict) and "default" in A:
            if getattr(module, "lora_magnitude_vector", None):
                break
            factors[path] = (_weight(A["default"]), _weight(B["default"]))
        elif isinstance(module, AdapterLinear) and "default" in module.configs:
            try:
                factors[path] = module.lora_factors("default")
            except UserError:
                break
    return factors


def _weight(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]  # of a linear layer
    return weight


def effective_rank(singular: Tensor) -> float:
    """The exponential of the entropy of the singular values, normalised to sum to 1; 0 without any.

    Source: O. Roy, M. Vetterli, The effective rank (2007).
    """
    total = float(singular.sum())
    return float(torch.special.entr(singular / total).sum().exp()) if total > 0 else 0.0
