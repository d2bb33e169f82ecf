"""AdamW over the trainable parameters, with decay on matrices only."""

from __future__ import annotations

import torch
from torch import nn


def build_adamw(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    device_type: str,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019), fused on a GPU.

    Gains, magnitudes and biases (one dimension) are not decayed: pulling them to zero is not the
    regularisation that decay is meant for.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=lr,
        betas=betas,
        eps=eps,
        fused=device_type == "cuda",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
