"""The pairs of factors A and B, for optimizers that step both with a view to their product.

A layer computes ``W = W0 + s B A`` with A ``(r, n)`` and B ``(m, r)``: LoRA, and the direction of
DoRA. TopLoRA has its gate between A and B, TensLoRA and GenLoRA have other factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toplora_train.config.errors import UserError


@dataclass(frozen=True)
class Pair:
    """The factors of a layer's update ``s B A``."""

    a: nn.Parameter  # (r, n)
    b: nn.Parameter  # (m, r)
    scaling: float
    layer: Any  # PEFT's


def factor_pairs(model: nn.Module, *, optimizer: str, plain: bool = False) -> list[Pair]:
    """The trained pairs of factors.

    Args:
        model: The model with its adapter.
        optimizer: The name of the optimizer that needs them, for the error message.
        plain: Whether the update must be s B A itself, for every token; DoRA's is not.

    Raises:
        UserError: The adapter has none, or they are in half precision.
    """
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if isinstance(getattr(layer, "lora_A", None), nn.ModuleDict)
    ]
    pairs = [
        Pair(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], layer)
        for layer in layers
        for name in layer.active_adapters
        if name in layer.lora_A and isinstance(layer.lora_A[name], nn.Linear)
    ]
    if not pairs or (plain and any(pair.layer.lora_variant for pair in pairs)):
        known = "adapter=lora" if plain else "adapter=lora, dora and alora"
        raise UserError(
            f"optimizer={optimizer} is for adapters that add s B A to a weight matrix, all of A "
            f"and B trained: {known}, without init=pissa or init=olora; use optimizer=adamw with "
            "this one"
        )
    if pairs[0].a.dtype in (torch.bfloat16, torch.float16):
        raise UserError(
            f"optimizer={optimizer} inverts matrices, which takes float32: adapter.dtype=float32"
        )
    return pairs


def gram_inverses(matrices: Sequence[Tensor], delta: float) -> list[Tensor]:
    """``(M M' + delta I)^+`` of each matrix M ``(r, n)``; those of one rank at once."""
    found: list[Tensor | None] = [None] * len(matrices)
    for rank in {matrix.shape[0] for matrix in matrices}:
        places = [i for i, matrix in enumerate(matrices) if matrix.shape[0] == rank]
        grams = torch.stack([matrices[i] @ matrices[i].T for i in places])
        damped = grams + delta * torch.eye(rank, dtype=grams.dtype, device=grams.device)
        for i, inverse in zip(places, torch.linalg.pinv(damped, hermitian=True), strict=True):
            found[i] = inverse
    return [inverse for inverse in found if inverse is not None]


class PreconditionedAdamW(torch.optim.AdamW):
    """AdamW, before each step of which ``precondition`` changes the gradients.

    Args:
        groups: Parameter groups.
        precondition: Replaces gradients, given whether it is the first step.
        adamw: AdamW's own arguments.
    """

    def __init__(
        self, groups: list[dict[str, Any]], precondition: Callable[[bool], None], **adamw: Any
    ) -> None:
        super().__init__(groups, **adamw)
        self._precondition = precondition

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is given here
        """Precondition the gradients, then take AdamW's step."""
        assert closure is None
        self._precondition(not self.state)
        super().step()
