"""Activated LoRA as PEFT computes it: a LoRA that is off until invocation tokens occur.

Paper: "Activated LoRA: Fine-tuned LLMs for Intrinsics" (arXiv 2504.12397).

    y_t = W0 x_t                        before the last occurrence of the invocation tokens
    y_t = W0 x_t + s B A drop(x_t)      from its first token on

Shapes: W0 (m, n) frozen, A (r, n), B (m, r); x_t (n), y_t (m) at position t of a sequence.
s = alpha / r, or alpha / sqrt(r) with rank-stabilised scaling. A sequence without the invocation
tokens is the base model's. So the keys and values of what precedes them can be computed by the
base model and shared with it.

The tokens are those that the tokenizer makes of ``invocation`` alone. A run refuses training rows
whose prompt does not contain exactly these: a tokenizer may join the string with its surroundings.

Start: A Kaiming-uniform, B zero, so that the update is exactly zero.

Parameters: r (n + m) per module, as LoRA. Cost: LoRA's at the activated positions; evaluation
computes each prompt by itself. Merges: no, as the update depends on the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, PeftModel

from toplora_train.adapters.checks import check_choice, check_keys
from toplora_train.adapters.lora import LoraSettings, lora_config

INITS = ("kaiming", "gaussian", "orthogonal")


@dataclass
class AloraSettings(LoraSettings):
    """The validated keys of ``conf/adapter/alora.yaml``: LoRA's and the invocation.

    Args:
        invocation: The text from which on the adapter is active.
        invocation_tokens: Its token ids. A run computes them; elsewhere they must be given.
    """

    invocation: str = ""
    invocation_tokens: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("init", self.init, INITS)
        tokens = self.invocation_tokens
        if tokens is not None and not (
            isinstance(tokens, list) and tokens and all(type(token) is int for token in tokens)
        ):
            raise TypeError(f"invocation_tokens must be a list of token ids, not {tokens!r}")


def peft_config(settings: Mapping[str, Any]) -> LoraConfig:
    """The PEFT config for the keys of ``conf/adapter/alora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, AloraSettings.setting_names())
    checked = AloraSettings(**settings)
    config = lora_config(checked, use_dora=False)
    config.alora_invocation_tokens = checked.invocation_tokens or [0]
    return config


def refine(model: PeftModel, settings: Mapping[str, Any]) -> None:
    """Refuse to train without invocation tokens; parameters can be counted without.

    Raises:
        ValueError: They are not known, or the model does not generate.
    """
    if model.peft_config["default"].task_type != "CAUSAL_LM":
        raise ValueError("it is for models that generate text; use adapter=lora for a head")
    if settings.get("invocation_tokens") is None and not model.device.type == "meta":
        raise ValueError(
            "invocation_tokens must be given where no tokenizer is known; they are the token ids "
            "of invocation"
        )
