"""LoRA-Pro (Wang et al., 2024, arXiv 2407.18242): steps of A and B closest to the full gradient's.

With the gradients g_A and g_B of the loss, the steps dA, dB with the smallest
``|| s (B dA + dB A) - dL/dW ||`` are, for any X (r x r),

    dA = (1/s^2) (B'B)^-1 g_A + X A
    dB = (1/s^2) (I - B (B'B)^-1 B') g_B (A A')^-1 - B X

and X is chosen so that they are closest to g_A and g_B:

    (B'B) X + X (A A') = -(1/s^2) (B'B)^-1 g_A A'

In the first step, where B is usually zero, ``dA = g_A`` and ``dB = (1/s^2) g_B (A A')^-1``. Each
inverse is damped by 1e-8. Two modes:

efficient
    AdamW on dA and dB: its state, no more.
full
    Adam's moments are those of the equivalent gradient ``G = s (B dA + dB A)``, **m x n** for each
    adapted matrix: as much as full fine-tuning's. ``g = m / (sqrt(v) + eps)``, corrected for bias,
    is projected once more, with ``s B'g`` and ``s g A'`` for g_A and g_B, and is the step. The
    authors round v to bfloat16; here it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toplora_train.config.errors import UserError
from toplora_train.train.optimizers.pairs import (
    Pair,
    PreconditionedAdamW,
    factor_pairs,
    gram_inverses,
)
from toplora_train.train.optimizers.parts import InParts, on_cuda, select

DELTA = 1e-8
MODES = ("efficient", "full")


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    model: nn.Module,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    mode: str = "efficient",
) -> torch.optim.Optimizer:
    """LoRA-Pro for the pairs, AdamW for other tensors.

    Raises:
        UserError: The adapter has no pairs A and B, or the mode does not exist.
    """
    if mode not in MODES:
        raise UserError(f"optimizer.settings.mode must be efficient or full, not '{mode}'")
    pairs = factor_pairs(model, optimizer="lora_pro")
    adamw: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "fused": on_cuda(groups)}
    if mode == "efficient":

        def precondition(first: bool) -> None:
            trained = [pair for pair in pairs if pair.b.grad is not None]
            gradients = [_gradients(pair) for pair in trained]
            for pair, step in zip(trained, steps(trained, gradients, first=first), strict=True):
                pair.a.grad, pair.b.grad = step

        return PreconditionedAdamW(groups, precondition, **adamw)
    paired = {id(p) for pair in pairs for p in (pair.a, pair.b)}
    parts: list[torch.optim.Optimizer] = [
        FullLoraPro(select(groups, lambda p: id(p) in paired), pairs, lr=lr, betas=betas, eps=eps)
    ]
    if others := select(groups, lambda p: id(p) not in paired):
        parts.append(torch.optim.AdamW(others, **adamw))
    return InParts(parts)


class FullLoraPro(torch.optim.Optimizer):
    """LoRA-Pro with the moments of the equivalent gradient.

    Args:
        groups: Parameter groups of the pairs' factors.
        pairs: The pairs.
        lr: The learning rate.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moment.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        pairs: Sequence[Pair],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._pairs = pairs

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is given here
        """Take a step."""
        assert closure is None
        pairs = [pair for pair in self._pairs if pair.b.grad is not None]
        first = not self.state
        raw = steps(pairs, [_gradients(pair) for pair in pairs], first=first, closest=False)
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        projected = []
        for pair, (step_a, step_b) in zip(pairs, raw, strict=True):
            equivalent = pair.scaling * (pair.b @ step_a + step_b @ pair.a)
            step = self._adam(self.state[pair.b], equivalent, groups[id(pair.b)])
            projected.append((pair.scaling * pair.b.T @ step, pair.scaling * step @ pair.a.T))
        for pair, both in zip(pairs, steps(pairs, projected, first=first), strict=True):
            for factor, step in zip((pair.a, pair.b), both, strict=True):
                group = groups[id(factor)]
                factor.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"])

    @staticmethod
    def _adam(state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(gradient)}
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        state["step"] += 1
        decay, decay_sq = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - decay)
        state["exp_avg_sq"].mul_(decay_sq).addcmul_(gradient, gradient, value=1 - decay_sq)
        mean = state["exp_avg"] / (1 - decay ** state["step"])
        square = state["exp_avg_sq"] / (1 - decay_sq ** state["step"])
        direction: Tensor = mean / (square.sqrt() + group["eps"])
        return direction


def steps(
    pairs: Sequence[Pair],
    gradients: Sequence[tuple[Tensor, Tensor]],
    *,
    first: bool,
    closest: bool = True,
) -> list[tuple[Tensor, Tensor]]:
    """DA and dB of each pair.

    Args:
        pairs: The pairs.
        gradients: g_A and g_B of each.
        first: Whether it is the first step.
        closest: Whether to solve for X; else it is zero, which is the same step in W.
    """
    inverses_a = gram_inverses([pair.a for pair in pairs], DELTA)
    if first:
        return [
            (of_a, of_b @ inverse / pair.scaling**2)
            for pair, (of_a, of_b), inverse in zip(pairs, gradients, inverses_a, strict=True)
        ]
    inverses_b = gram_inverses([pair.b.T for pair in pairs], DELTA)
    found = []
    for pair, (of_a, of_b), inverse_a, inverse_b in zip(
        pairs, gradients, inverses_a, inverses_b, strict=True
    ):
        step_a = inverse_b @ of_a / pair.scaling**2
        through = of_b @ inverse_a
        step_b = (through - pair.b @ (inverse_b @ (pair.b.T @ through))) / pair.scaling**2
        if closest:
            free = _sylvester(pair.b.T @ pair.b, pair.a @ pair.a.T, -step_a @ pair.a.T)
            step_a, step_b = step_a + free @ pair.a, step_b - pair.b @ free
        found.append((step_a, step_b))
    return found


def _sylvester(left: Tensor, right: Tensor, target: Tensor) -> Tensor:
    """X of ``left X + X right = target``, for symmetric positive semi-definite left and right."""
    values, vectors = torch.linalg.eigh(left)
    others, basis = torch.linalg.eigh(right)
    solved = (vectors.T @ target @ basis) / (values[:, None] + others)
    x: Tensor = vectors @ solved @ basis.T
    return x


def _gradients(pair: Pair) -> tuple[Tensor, Tensor]:
    assert pair.a.grad is not None
    assert pair.b.grad is not None
    return pair.a.grad, pair.b.grad
