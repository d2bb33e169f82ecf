"""Which modules of a model can be adapted, and which ones are adapted by default."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters.checks import check_names

ATTENTION_PROJECTIONS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "k_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, SmolLM, OPT, T5Gemma, ViT
    ("query", "key", "value"),  # BERT, RoBERTa, ELECTRA
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2 and -v3
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT
    ("q", "k", "v"),  # T5
    ("qkv_proj",),  # Phi-3: the three in one matrix
    ("query_key_value",),  # GPT-NeoX, BLOOM, Falcon
    ("Wqkv",),  # MPT, ModernBERT
    ("c_attn",),  # GPT-2
)
"""The names of the query, key and value projections in different architectures."""


NAMED_MODULES = ("target_modules", "exclude_modules", "modules_to_save")
"""The settings that name modules."""

_PLAIN_NAME = re.compile(r"\w+(\.\w+)*")


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: torch's, GPT-2's transposed one, or a quantised one."""
    if isinstance(module, nn.Linear | Conv1D):
        return True
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def linear_module_names(model: nn.Module) -> list[str]:
    """The last name component of every linear layer, each once, in the model's order."""
    names = (name.rpartition(".")[2] for name, module in model.named_modules() if is_linear(module))
    return list(dict.fromkeys(name for name in names if name))


def attention_projections(model: nn.Module) -> list[str]:
    """The names of the model's query, key and value projections, the default targets.

    Raises:
        ValueError: No known set of names is complete in this model; its linear layers are listed.
    """
    names = linear_module_names(model)
    for projections in ATTENTION_PROJECTIONS:
        if set(projections) <= set(names):
            return list(projections)
    raise ValueError(
        "target_modules must be set for this model, as the names of its query, key and value "
        f"projections are unknown; its linear layers are {', '.join(names)}"
    )


def plain_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a plain module name, such as ``q_proj``, as a list of one.

    PEFT takes a string as a regular expression over full names, which ``q_proj`` never matches; a
    string of letters, digits and dots can only be meant as a name.
    """
    return {
        key: [value]
        if key in NAMED_MODULES and isinstance(value, str) and _PLAIN_NAME.fullmatch(value)
        else value
        for key, value in settings.items()
    }


def _matches(pattern: str, module_name: str) -> bool:
    return module_name == pattern or module_name.endswith(f".{pattern}")


def check_targets_exist(key: str, patterns: str | Sequence[str] | None, model: nn.Module) -> None:
    """Refuse a module name, or a regular expression, that matches no module of the model.

    PEFT accepts a list if one name matches; here each must.

    Raises:
        ValueError: Starts with ``key`` and lists the model's linear layers.
    """
    check_names(key, patterns)
    if patterns is None or patterns == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(patterns, str):
        unmatched = [] if any(re.fullmatch(patterns, name) for name in names) else [patterns]
    else:
        unmatched = [
            pattern for pattern in patterns if not any(_matches(pattern, name) for name in names)
        ]
    if unmatched:
        whole = "" if not isinstance(patterns, str) else _list_remedy(patterns)
        raise ValueError(
            f"{key} names {', '.join(map(repr, sorted(unmatched)))}, which matches no module of "
            f"the model{whole}; its linear layers are {', '.join(linear_module_names(model))}"
        )


def _list_remedy(text: str) -> str:
    """The advice for a string that matches nothing."""
    names = [name.strip() for name in text.split(",")]
    if all(_PLAIN_NAME.fullmatch(name) for name in names):
        return f" (several names are a list: [{','.join(names)}])"
    return " (a string is a regular expression that must match a module's full name)"


def check_layers_exist(layers: int | Sequence[int] | None, model: nn.Module) -> None:
    """Refuse a layer index that the model does not have.

    Raises:
        ValueError: Starts with ``layers_to_transform`` and gives the model's layers.
    """
    wanted = [] if layers is None else [layers] if isinstance(layers, int) else layers
    numbers = (re.search(r"\.(\d+)\.", name) for name, _ in model.named_modules())
    count = max((int(number[1]) + 1 for number in numbers if number), default=0)
    missing = [index for index in wanted if index >= count]
    if missing:
        raise ValueError(
            f"layers_to_transform names layer {missing[0]}, but the model has 0 to {count - 1}"
        )
