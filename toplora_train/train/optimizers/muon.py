"""Muon (Jordan et al., 2024) for matrices, AdamW for all other tensors.

Muon's updates are scaled to the RMS of AdamW's (Liu et al., 2025, arXiv 2502.16982, section 2.2),
so both take the same learning rate and weight decay. Nesterov momentum of 0.95, five Newton-Schulz
iterations; one moment per matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.train.optimizers.parts import InParts, on_cuda, select


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    model: nn.Module,  # noqa: ARG001  # all optimizers are given it
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.Optimizer:
    """Torch's Muon and AdamW; ``betas`` and ``eps`` are AdamW's.

    Raises:
        UserError: No tensor has two dimensions.
    """
    matrices = select(groups, lambda p: p.ndim == 2)
    others = select(groups, lambda p: p.ndim != 2)
    if not matrices:
        raise UserError(
            "optimizer=muon needs 2-D tensors, and this adapter has none; use optimizer=adamw"
        )
    parts: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
    ]
    if others:
        fused = on_cuda(others)
        parts.append(torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, fused=fused))
    return InParts(parts)
