"""LoRA, as PEFT computes it.

Paper: "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).

    y = W0 x + s B A drop(x)

Shapes: W0 (m, n) frozen, A (r, n), B (m, r); x (..., n), y (..., m). s = alpha / r, or
alpha / sqrt(r) with rank-stabilised scaling.

Start: A Kaiming-uniform (a = sqrt 5), B zero, so that the update is exactly zero.

Parameters: r (n + m) per module. Cost: two thin products per token, 2 r (n + m) operations.
Merges: the update is the fixed matrix s B A, so it goes into the weight and costs nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from peft import LoraConfig

from toplora_train.adapters.checks import check_choice, check_keys
from toplora_train.adapters.configs import LowRankConfig

INITS: dict[str, bool | str] = {
    "kaiming": True,
    "gaussian": "gaussian",
    "orthogonal": "orthogonal",
}
"""Our names of the starts that leave the base weights alone -> PEFT's ``init_lora_weights``."""

_CHANGES_THE_BASE = "changes the base weights, so that the adapter fits no unchanged base model"
_NEEDS_DATA = "is computed from data, which is not at hand when the adapter is attached"
REFUSED_INITS = {
    "pissa": _CHANGES_THE_BASE,
    "olora": _CHANGES_THE_BASE,
    "loftq": _CHANGES_THE_BASE,
    "eva": _NEEDS_DATA,
    "corda": _NEEDS_DATA,
    "lora_ga": _NEEDS_DATA,
}
"""Starts of PEFT's that are not offered, and why."""

BIASES = ("none", "all", "lora_only")


@dataclass
class LoraSettings(LowRankConfig):
    """The keys of ``conf/adapter/lora.yaml``, checked.

    Args:
        init: ``kaiming`` (paper), ``gaussian`` (A normal with deviation 1/r) or ``orthogonal``
            (A and B orthogonal and B A = 0); PEFT's starts that change the base weights are not
            offered, an adapter that began with one does not reload on the unchanged base model.
        bias: The base model's biases that are trained as well: ``none``, ``all``, ``lora_only``.
    """

    method: ClassVar[str] = "lora"

    init: str = "kaiming"
    bias: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init in REFUSED_INITS:
            raise ValueError(
                f"init must be one of {', '.join(INITS)}, not {self.init!r}, which "
                f"{REFUSED_INITS[self.init]}"
            )
        check_choice("init", self.init, tuple(INITS))
        check_choice("bias", self.bias, BIASES)


def lora_config(checked: LoraSettings, *, use_dora: bool) -> LoraConfig:
    """PEFT's config for our settings."""
    return LoraConfig(
        r=checked.r,
        lora_alpha=checked.alpha,
        lora_dropout=checked.dropout,
        target_modules=checked.target_modules,
        exclude_modules=checked.exclude_modules,
        layers_to_transform=checked.layers_to_transform,
        rank_pattern=checked.rank_pattern,
        alpha_pattern=checked.alpha_pattern,
        modules_to_save=checked.modules_to_save,
        use_rslora=checked.use_rslora,
        init_lora_weights=INITS[checked.init],
        bias=checked.bias,
        use_dora=use_dora,
    )


def peft_config(settings: Mapping[str, Any]) -> LoraConfig:
    """The PEFT config for the keys of ``conf/adapter/lora.yaml``.

    Raises:
        TypeError, ValueError: A bad value; the message begins with its key.
    """
    check_keys(settings, LoraSettings.setting_names())
    return lora_config(LoraSettings(**settings), use_dora=False)
