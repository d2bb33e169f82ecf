"""DoRA as PEFT computes it: LoRA for the direction of each weight row, plus its magnitude.

Paper: "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353).

    W' = diag(g) (W0 + s B A),   g = mag / ||W0 + s B A||_row,   y = W' x
    with dropout:  y = W0 x + (g - 1) W0 drop(x) + g s B A drop(x)

Shapes: W0 (m, n) frozen, A (r, n), B (m, r), mag (m) and g (m); x (..., n), y (..., m). The row
norm is detached from the graph. s as in LoRA. Start: A and B as in LoRA, mag = ||W0||_row, so that
W' = W0. ``norm: factored`` computes the same norm without materialising W0 + s B A
(:mod:`toplora_train.adapters.dora_norm`); the saved adapter is PEFT's DoRA either way.

Parameters: r (n + m) + m per module. Cost: LoRA's, and the row norm of W0 + s B A at every step,
for which PEFT builds a matrix of the weight's size; factored, the largest has r columns.
Merges: W' is a fixed matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from peft import LoraConfig, PeftModel

from toplora_train.adapters import lora
from toplora_train.adapters._peft.dora import replace_dora, validate_readable
from toplora_train.adapters.checks import check_choice, check_keys
from toplora_train.adapters.dora_norm import FactoredDora
from toplora_train.adapters.lora import LoraSettings, lora_config, start_from_data

__all__ = ["NORMS", "DoraSettings", "peft_config", "refine", "start_from_data"]

NORMS = ("peft", "factored")


@dataclass
class DoraSettings(LoraSettings):
    """The validated keys of ``conf/adapter/dora.yaml``: LoRA's and ``norm``.

    Args:
        norm: ``peft`` materialises W0 + s B A at every step, ``factored`` does not.
    """

    method: ClassVar[str] = "lora"  # to PEFT, DoRA is a LoRA

    norm: str = "peft"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("norm", self.norm, NORMS)


def peft_config(settings: Mapping[str, Any]) -> LoraConfig:
    """The PEFT config for the keys of ``conf/adapter/dora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, DoraSettings.setting_names())
    return lora_config(DoraSettings(**settings), use_dora=True)


def refine(model: PeftModel, settings: Mapping[str, Any]) -> None:
    """Apply what PEFT's config has no field for: some initialisations, and the factored norm.

    Raises:
        ValueError: A layer is not linear (``norm: factored``), or is an 8-bit layer on the CPU.
    """
    for name, module in model.named_modules():
        validate_readable(name, module)
    lora.refine(model, settings)
    if settings.get("norm") == "factored":
        replace_dora(model, FactoredDora)
