"""Initialisations of LoRA from the base weights: PiSSA, OLoRA.

Papers: "PiSSA: Principal Singular Values and Singular Vectors Adaptation" (arXiv 2404.02948);
"OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models" (arXiv 2406.01775).

    PiSSA:  W0 = U S V^T,  B0 = U_r (S_r / s)^1/2,  A0 = (S_r / s)^1/2 V_r^T
    OLoRA:  W0 = Q R,      B0 = Q_r,                A0 = R_r
    both:   y = (W0 - s B0 A0) x + s B A x,   A = A0, B = B0 at the start

Shapes: W0 (m, n), A and A0 (r, n), B and B0 (m, r). PEFT changes the base weight to W0 - s B0 A0,
so the saved A and B are wrong on the original base model. Here the base weight is unchanged, and
the same function is a LoRA of rank 2r, half of it frozen,

    y = W0 x + s [B, -B0] [A; A0] x

It is saved in that form, which any PEFT loads onto the original (even a quantised) base model.

Cost: thin products of rank 2r; only the r (n + m) parameters of A and B are trained and counted.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from torch.nn import functional

from toplora_train.adapters.base import frozen_weight

FAST_PISSA = re.compile(r"pissa_niter_(\d+)")
"""PEFT's name for PiSSA by a randomised SVD with that many power iterations."""


def is_made_of_weights(init: str) -> bool:
    """Whether an initialisation is one of these."""
    return init in ("pissa", "olora") or FAST_PISSA.fullmatch(init) is not None


class HalfFrozen(nn.Module):
    """A thin matrix with one trained and one frozen half; to PEFT, and in a file, one ``weight``.

    Args:
        trained: Values of the trained half, ``(r, n)`` or ``(m, r)``.
        frozen: The frozen half, of the same shape.
        dim: The rank's dimension, along which they are concatenated.
    """

    frozen: Tensor

    def __init__(self, trained: Tensor, frozen: Tensor, dim: int) -> None:
        super().__init__()
        self.trained = nn.Parameter(trained.contiguous())  # as safetensors requires of its moments
        self.register_buffer("frozen", frozen.contiguous())
        self.dim = dim

    @property
    def weight(self) -> Tensor:
        """``(2r, n)`` or ``(m, 2r)``."""
        return torch.cat([self.trained, self.frozen.to(self.trained.dtype)], self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """``x (..., n) -> (..., 2r)``, or ``(..., 2r) -> (..., m)``."""
        return functional.linear(x, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        trained: Any = self.trained if keep_vars else self.trained.detach()
        if hasattr(trained, "full_tensor"):  # sharded by FSDP2
            trained = trained.full_tensor()
        frozen = self.frozen.to(trained.dtype)
        destination[f"{prefix}weight"] = torch.cat([trained, frozen], self.dim)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        del local_metadata, strict, unexpected_keys
        weight = state_dict.get(f"{prefix}weight")
        if weight is None:
            missing_keys.append(f"{prefix}weight")
        elif weight.shape != self.weight.shape:
            error_msgs.append(
                f"{prefix}weight is {tuple(weight.shape)} instead of {tuple(self.weight.shape)}"
            )
        else:
            trained, frozen = weight.chunk(2, self.dim)
            with torch.no_grad():
                self.trained.copy_(trained)
                self.frozen.copy_(frozen)


def linear_layers(model: PeftModel, init: str) -> dict[str, Any]:
    """The LoRA layers by name.

    Raises:
        ValueError: One is not linear, so this initialisation is not defined for it.
    """
    found = {}
    for name, layer in model.named_modules():
        linear = getattr(layer, "lora_A", {})
        others = [module for module in linear.values() if not isinstance(module, nn.Linear)]
        if others or getattr(layer, "lora_embedding_A", {}):
            raise ValueError(
                f"init {init!r} is for linear layers; target_modules matches {in_base(name)}, so "
                "leave it out by adapter.exclude_modules"
            )
        if linear:
            found[name] = layer
    return found


def in_base(name: str) -> str:
    """A module's name in the base model, as settings name it."""
    return name.removeprefix("base_model.model.")


def start_from_weights(model: PeftModel, init: str) -> None:
    """Initialise every LoRA layer from its base weight; the config then has rank 2r.

    Raises:
        ValueError: A layer is not linear, or smaller than the rank.
    """
    for name, layer in linear_layers(model, init).items():
        for adapter, module in layer.lora_A.items():
            A0, B0 = _start(frozen_weight(layer), layer.r[adapter], layer.scaling[adapter], init)
            if min(A0.shape[0], B0.shape[1]) < layer.r[adapter]:
                raise ValueError(f"r must be at most {A0.shape[0]}, the smaller side of {name}")
            dtype = module.weight.dtype
            layer.lora_A[adapter] = HalfFrozen(A0.to(dtype), A0.to(dtype).clone(), dim=0)
            layer.lora_B[adapter] = HalfFrozen(B0.to(dtype), -B0.to(dtype), dim=1)
            layer.r[adapter] *= 2
            layer.lora_alpha[adapter] *= _alpha_factor(layer.use_rslora.get(adapter, False))
    for config in model.peft_config.values():
        assert isinstance(config, LoraConfig)
        factor = _alpha_factor(config.use_rslora)
        config.r *= 2
        config.lora_alpha *= factor
        config.rank_pattern = {name: 2 * r for name, r in (config.rank_pattern or {}).items()}
        config.alpha_pattern = {
            name: factor * alpha for name, alpha in (config.alpha_pattern or {}).items()
        }


def _alpha_factor(use_rslora: bool) -> float:
    """The factor on alpha that keeps the scaling when the rank doubles."""
    return math.sqrt(2) if use_rslora else 2


@torch.no_grad()
def _start(weight: Tensor, r: int, scaling: float, init: str) -> tuple[Tensor, Tensor]:
    """``A0 (r, n)`` and ``B0 (m, r)`` of a weight ``(m, n)``, computed in float32."""
    weight = weight.detach().float()
    if init == "olora":
        Q, R = torch.linalg.qr(weight)
        return R[:r], Q[:, :r]
    fast = FAST_PISSA.fullmatch(init)
    if fast is not None and not weight.is_meta:
        U, S, V = torch.svd_lowrank(weight, r, niter=int(fast.group(1)))
        Vh = V.T
    else:
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    root = (S[:r] / scaling).sqrt()
    return root[:, None] * Vh[:r], U[:, :r] * root
