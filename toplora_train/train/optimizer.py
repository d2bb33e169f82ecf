"""The optimizer, with learning rates and weight decay by parameter name.

LoRA+ (Hayou, Ghosh and Yu, 2024, arXiv 2402.12354) is one use: B's learning rate is ``ratio`` times
A's. TensLoRA's core, one small tensor that every layer shares, is another.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from toplora_train.config.check import ELEMENTWISE, OPTIMIZERS
from toplora_train.config.errors import UserError, one_line
from toplora_train.config.plugins import plugin

LORA_PLUS = r"lora_B\."
"""LoRA+'s B, by PEFT's parameter names."""


def build_optimizer(
    model: nn.Module,
    *,
    name: str = "adamw",
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    lr_multipliers: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    **settings: Any,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over the trainable parameters.

    Args:
        model: the model.
        name: ``adamw`` and ``loraplus`` are torch's AdamW, fused if the parameters are on a GPU;
            ``adamw8bit`` keeps the moments of large tensors in 8 bits (bitsandbytes; Dettmers et
            al., 2022); others are modules of :mod:`toplora_train.train.optimizers`; any other name
            is a module of the user's own with a function ``build_optimizer(groups, *, lr, betas,
            eps, **settings)``.
        lr: the learning rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        weight_decay: for tensors of two or more dimensions; gains, magnitudes and biases (1-D) are
            never decayed.
        lr_multipliers: regular expression over parameter names to learning-rate factor; where
            several match, their factors multiply.
        no_decay: regular expressions over parameter names to exempt from weight decay.
        settings: further arguments of a module's function.

    Raises:
        UserError: a pattern is invalid or matches nothing, a package is not installed, or the
            module's function refuses the adapter or a setting.
    """
    groups = parameter_groups(
        model, weight_decay=weight_decay, lr_multipliers=lr_multipliers or {}, no_decay=no_decay
    )
    adamw: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps}
    if name not in ELEMENTWISE:
        known = {"model": model} if name in OPTIMIZERS else {}
        return _of_module(name, groups, **adamw, **known, **settings)
    if settings:
        raise UserError(f"optimizer.settings: optimizer={name} has none; leave it out")
    if name == "adamw8bit":
        eight_bit: torch.optim.Optimizer = _bitsandbytes().optim.AdamW8bit(groups, **adamw)
        return eight_bit
    fused = any(p.requires_grad and p.device.type == "cuda" for p in model.parameters())
    return torch.optim.AdamW(groups, **adamw, fused=fused)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    lr_multipliers: Mapping[str, float],
    no_decay: Sequence[str],
) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by weight decay and learning-rate factor.

    Raises:
        UserError: a pattern matches no trainable parameter, or is not a regular expression; or a
            parameter is float16.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _validate_dtypes(trainable)
    for key, patterns in {"lr_multipliers": lr_multipliers, "no_decay": no_decay}.items():
        for pattern in patterns:
            _validate_patterns(f"optimizer.{key}", pattern, list(trainable))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        factor = 1.0
        for pattern, multiplier in lr_multipliers.items():
            factor *= multiplier if re.search(pattern, name) else 1.0
        exempt = parameter.ndim < 2 or any(re.search(pattern, name) for pattern in no_decay)
        groups.setdefault((0.0 if exempt else weight_decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": factor}
        for (decay, factor), parameters in groups.items()
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set each parameter group's learning rate to ``lr`` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def _validate_dtypes(trainable: Mapping[str, nn.Parameter]) -> None:
    """Refuse float16: AdamW's epsilon is 0 there, and squares of small gradients are."""
    name = next((name for name, p in trainable.items() if p.dtype == torch.float16), None)
    if name is not None:
        remedy = (
            "it is trained whole, in the model's dtype: set model.dtype=float32 (fast with "
            "trainer.mixed_precision=fp16) or bfloat16"
            if "modules_to_save" in name
            else "set adapter.dtype=float32"
        )
        raise UserError(f"{name} is float16, in which small gradients are lost; {remedy}")


def _validate_patterns(key: str, pattern: str, names: Sequence[str]) -> None:
    try:
        if any(re.search(pattern, name) for name in names):
            return
    except re.error as error:
        raise UserError(f"{key}: '{pattern}' is not a regular expression ({error})") from error
    parts = [[part for part in name.split(".") if "_" in part] for name in names]
    if pattern == LORA_PLUS:
        own = sorted({of_name[-1] for of_name in parts if of_name})  # not the modules they are in
        raise UserError(
            "optimizer=loraplus needs an adapter with matrices A and B; this one has "
            f"{', '.join(own[:8])}: set optimizer.lr_multipliers for these instead"
        )
    kinds = sorted({part for of_name in parts for part in of_name})
    raise UserError(
        f"{key}: '{pattern}' matches no trainable parameter; their names contain, for example, "
        f"{', '.join(kinds[:12])}"
    )


def _of_module(name: str, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    if name in OPTIMIZERS:
        module: Any = importlib.import_module(f"toplora_train.train.optimizers.{name}")
    else:
        module = plugin("optimizer", name)
    if module is None or not hasattr(module, "build_optimizer"):
        raise UserError(
            f"optimizer.name={name} needs a module of your own, optimizer/{name}.py, that defines "
            "build_optimizer(groups, *, lr, betas, eps)"
        )
    try:
        optimizer = module.build_optimizer(groups, **settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer={name}: {one_line(error)}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"optimizer={name}: build_optimizer must return a torch.optim.Optimizer")
    if any("lr_scale" not in group for group in optimizer.param_groups):
        raise UserError(
            f"optimizer={name}: build_optimizer must give the groups as they are to its optimizer; "
            "they have their own weight decay and learning rate"
        )
    return optimizer


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            "optimizer=adamw8bit needs bitsandbytes; install it: pip install 'toplora-train[quant]'"
        ) from error
    return bitsandbytes
