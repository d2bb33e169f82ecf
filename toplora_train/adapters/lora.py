"""LoRA as PEFT computes it.

Paper: "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).

    y = W0 x + s B A drop(x)

Shapes: W0 (m, n) frozen, A (r, n), B (m, r); x (..., n), y (..., m). s = alpha / r, or
alpha / sqrt(r) with rank-stabilised scaling.

Start: A Kaiming-uniform (a = sqrt 5), B zero, so that the update is exactly zero. ``init`` selects
others: ``pissa`` and ``olora`` start from W0 (:mod:`toplora_train.adapters.lora_start`),
``eva`` with A along the principal directions of the layer's inputs on the training rows
(:mod:`toplora_train.adapters.lora_eva`).

Parameters: r (n + m) per module. Cost: two thin products per token, 2 r (n + m) operations.
Merges: the update is the fixed matrix s B A; merged into the weight it costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from peft import LoraConfig, PeftModel
from torch import Tensor

from toplora_train.adapters.checks import check_choice, check_keys
from toplora_train.adapters.configs import LowRankConfig
from toplora_train.adapters.lora_eva import start_from_inputs
from toplora_train.adapters.lora_start import (
    FAST_PISSA,
    is_made_of_weights,
    start_from_weights,
)

INITS: dict[str, bool | str] = {
    "kaiming": True,
    "gaussian": "gaussian",
    "orthogonal": "orthogonal",
    "eva": True,
    "pissa": True,
    "pissa_niter_16": True,
    "olora": True,
}
"""Values of ``init`` -> PEFT's ``init_lora_weights``; the last four are applied after attaching.

``pissa_niter_N`` accepts any N.
"""

UNSUPPORTED_INITS = {
    "loftq": "quantises the base model itself; use a 4-bit base model and another init",
    "corda": "needs input covariances, which only its authors' script collects",
    "lora_ga": "needs gradients of the whole base model, more memory than training",
}
"""Initialisations of PEFT that are not supported, and why."""

BIASES = ("none", "all", "lora_only")


@dataclass
class LoraSettings(LowRankConfig):
    """The validated keys of ``conf/adapter/lora.yaml``.

    Args:
        init: ``kaiming`` (paper), ``gaussian`` (A normal, standard deviation 1/r), ``orthogonal``
            (A and B orthogonal and B A = 0), ``pissa``, ``pissa_niter_N`` (randomised SVD),
            ``olora`` or ``eva``.
        bias: Biases of the base model to train: ``none``, ``all``, ``lora_only``.
    """

    method: ClassVar[str] = "lora"

    init: str = "kaiming"
    bias: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init in UNSUPPORTED_INITS:
            raise ValueError(
                f"init must be one of {', '.join(INITS)}, not {self.init!r}, which "
                f"{UNSUPPORTED_INITS[self.init]}"
            )
        if FAST_PISSA.fullmatch(self.init) is None:
            check_choice("init", self.init, tuple(INITS))
        check_choice("bias", self.bias, BIASES)


def lora_config(checked: LoraSettings, *, use_dora: bool) -> LoraConfig:
    """PEFT's config for these settings."""
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
        init_lora_weights=INITS.get(checked.init, True),
        bias=checked.bias,
        use_dora=use_dora,
    )


def peft_config(settings: Mapping[str, Any]) -> LoraConfig:
    """The PEFT config for the keys of ``conf/adapter/lora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, LoraSettings.setting_names())
    return lora_config(LoraSettings(**settings), use_dora=False)


def refine(model: PeftModel, settings: Mapping[str, Any]) -> None:
    """Initialise from the base weights if the settings say so.

    Raises:
        ValueError: This initialisation does not support one of the layers.
    """
    init = str(settings.get("init", "kaiming"))
    if is_made_of_weights(init):
        start_from_weights(model, init)


def start_from_data(
    model: PeftModel, settings: Mapping[str, Any], batches: Sequence[Mapping[str, Tensor]]
) -> None:
    """Initialise from the layers' inputs on training rows if the settings say so.

    Raises:
        ValueError: The rows have fewer tokens than the rank, or a layer has no such inputs.
    """
    if settings.get("init") == "eva":
        start_from_inputs(model, batches)
