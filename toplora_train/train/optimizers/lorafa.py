"""LoRA-FA (Zhang et al., 2023, arXiv 2308.03303): A stays as it was drawn, B is trained.

    g_B <- (1/s^2) g_B (A A' + 1e-8 I)^-1, then AdamW on B

The gradient of B that, through A, comes closest to the full gradient of W. The state is AdamW's of
B alone. PEFT's ``LoraFAOptimizer`` has the same rule, but rounds this product to bfloat16 where the
device has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.train.optimizers.pairs import PreconditionedAdamW, factor_pairs, gram_inverses
from toplora_train.train.optimizers.parts import on_cuda, select

DELTA = 1e-8


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    model: nn.Module,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.Optimizer:
    """AdamW on B's projected gradient and on what else is trained; freezes A.

    Raises:
        UserError: The adapter has no pairs A and B, or a learning rate was set for A.
    """
    pairs = factor_pairs(model, optimizer="lorafa")
    frozen = {id(pair.a) for pair in pairs}
    if any(group["lr_scale"] != 1 for group in select(groups, lambda p: id(p) in frozen)):
        raise UserError(
            "optimizer.lr_multipliers: optimizer=lorafa does not train A (lora_A), so it has no "
            "learning rate; remove its pattern"
        )
    for pair in pairs:
        pair.a.requires_grad_(False)
    groups = select(groups, lambda p: id(p) not in frozen)

    def precondition(_: bool) -> None:
        inverses = gram_inverses([pair.a for pair in pairs], DELTA)
        for pair, inverse in zip(pairs, inverses, strict=True):
            if pair.b.grad is not None:
                pair.b.grad = pair.b.grad @ inverse / pair.scaling**2

    return PreconditionedAdamW(
        groups, precondition, lr=lr, betas=betas, eps=eps, fused=on_cuda(groups)
    )
