"""Riemannian preconditioned LoRA (Zhang and Pilanci, 2024, arXiv 2402.02347): PEFT's, over AdamW.

    g_A <- (B'B + reg I)^-1 g_A,    g_B <- g_B (A A' + reg I)^-1

The gradient in a metric in which A and B are scaled alike; AdamW's state, no more.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.optimizers import create_riemannian_optimizer
from torch import nn

from toplora_train.train.optimizers.pairs import factor_pairs
from toplora_train.train.optimizers.parts import on_cuda


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    model: nn.Module,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    reg: float = 1e-2,
) -> torch.optim.Optimizer:
    """PEFT's optimizer with this project's parameter groups.

    Raises:
        UserError: The adapter has no pairs A and B.
    """
    factor_pairs(model, optimizer="riemannian")
    optimizer: torch.optim.Optimizer = create_riemannian_optimizer(
        model, torch.optim.AdamW, lr=lr, reg=reg, betas=betas, eps=eps, fused=on_cuda(groups)
    )
    optimizer.param_groups.clear()  # PEFT's single one
    for group in groups:
        optimizer.add_param_group(group)
    return optimizer
