"""Two LoRA layers, gradients drawn at random, and AdamW written from its equations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from toplora_train.train.optimizer import build_optimizer

STEPS, RANK, SCALING = 20, 4, 2.0
SHAPES = ((9, 7), (6, 11))  # (m, n) of the two layers
LR, BETAS, EPS = 1e-2, (0.9, 0.999), 1e-8

Matrix = np.ndarray
Rule = Callable[[int, Matrix, Matrix, Matrix, Matrix], tuple[Matrix, Matrix]]
"""Of a layer: (step from 0, A, B, g_A, g_B) to the new A and B."""


def lora(dtype: torch.dtype = torch.float64) -> nn.Module:
    """A model of two layers with LoRA of rank 4 and s = 2; A and B are drawn at random."""
    torch.manual_seed(1)
    layers = nn.ModuleDict(
        {f"layer{i}": nn.Linear(n, m, bias=False) for i, (m, n) in enumerate(SHAPES)}
    )
    config = LoraConfig(r=RANK, lora_alpha=SCALING * RANK, target_modules=["layer0", "layer1"])
    model = get_peft_model(layers, config).double()
    for factor in factors(model):
        factor.data.normal_()
    return model.to(dtype)


def factors(model: nn.Module) -> list[nn.Parameter]:
    """A and B of the first layer, then of the second."""
    return [p for name, p in model.named_parameters() if "lora_" in name]


def gradients() -> list[list[torch.Tensor]]:
    """For each step a gradient of each factor, float64."""
    generator = torch.Generator().manual_seed(2)
    shapes = [shape for m, n in SHAPES for shape in ((RANK, n), (m, RANK))]
    return [
        [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for _ in range(STEPS)
    ]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: list[list[torch.Tensor]]
) -> list[Matrix]:
    """Take the steps; return the factors."""
    for step in steps:
        for parameter, gradient in zip(factors(model), step, strict=True):
            parameter.grad = gradient.to(parameter.dtype) if parameter.requires_grad else None
        optimizer.step()
    return [parameter.detach().double().numpy() for parameter in factors(model)]


def built(
    model: nn.Module, name: str, *, weight_decay: float = 0.0, **settings: object
) -> torch.optim.Optimizer:
    """The optimizer of this name, by default without weight decay."""
    return build_optimizer(
        model, name=name, lr=LR, betas=BETAS, eps=EPS, weight_decay=weight_decay, **settings
    )


def expected(rules: list[Rule]) -> list[Matrix]:
    """The factors after all steps, by a rule for each layer."""
    values = [p.detach().numpy().copy() for p in factors(lora())]
    for step, drawn in enumerate(gradients()):
        of = [gradient.numpy() for gradient in drawn]
        for layer, rule in enumerate(rules):
            a, b = 2 * layer, 2 * layer + 1
            values[a], values[b] = rule(step, values[a], values[b], of[a], of[b])
    return values


def assert_follows(name: str, make_rule: Callable[[], Rule], **settings: object) -> None:
    """The factors after 20 steps are the rule's: to 1e-10 in float64, 1e-5 in float32."""
    wanted = expected([make_rule() for _ in SHAPES])
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = lora(dtype)
        found = train(model, built(model, name, **settings), gradients())
        for one, other in zip(found, wanted, strict=True):
            assert np.abs(one - other).max() < tolerance * max(1.0, np.abs(other).max()), dtype


class Adam:
    """AdamW's step of one matrix, without weight decay (Kingma and Ba, 2015, algorithm 1)."""

    def __init__(self, eps: float = EPS) -> None:
        self.m, self.v, self.t, self.eps = 0.0, 0.0, 0, eps

    def direction(self, gradient: Matrix) -> Matrix:
        """The next step's direction: m / (sqrt(v) + eps), corrected for bias."""
        self.t += 1
        self.m = BETAS[0] * self.m + (1 - BETAS[0]) * gradient
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * gradient**2
        mean, square = self.m / (1 - BETAS[0] ** self.t), self.v / (1 - BETAS[1] ** self.t)
        return mean / (np.sqrt(square) + self.eps)
