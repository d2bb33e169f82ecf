"""The optimizer and the learning rate that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from toplora_train.config.schema import OptimizerSettings
from toplora_train.train.optimizer import LORA_PLUS, build_optimizer
from toplora_train.train.schedule import learning_rate_factor, warmup_length


def make_optimizer(
    model: nn.Module, settings: OptimizerSettings, *, device_type: str
) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters; LoRA+ is a multiplier for B.

    Raises:
        UserError: the settings do not fit the adapter; a model on the meta device shows it as well.
    """
    multipliers = dict(settings.lr_multipliers or {})
    if settings.ratio is not None:
        multipliers[LORA_PLUS] = settings.ratio
    return build_optimizer(
        model,
        name=settings.name,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        device_type=device_type,
        lr_multipliers=multipliers,
        no_decay=settings.no_decay or (),
    )


def learning_rate(settings: OptimizerSettings, *, total_steps: int) -> Callable[[int], float]:
    """The learning rate as a function of the step."""
    warmup = warmup_length(total_steps, settings.warmup_steps, settings.warmup_ratio)
    return lambda step: (
        settings.lr
        * learning_rate_factor(
            step, total_steps=total_steps, warmup=warmup, schedule=settings.schedule
        )
    )
