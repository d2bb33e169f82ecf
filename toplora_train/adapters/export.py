"""Exports an adapter as a plain LoRA, for software that reads only LoRA.

In each module, TensLoRA and GenLoRA are the product of two thin matrices. These are saved with the
scaling folded into B (``lora_alpha = r``), so the LoRA computes the same output as the adapter.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters.base import AdapterLinear, adapter_prefixes
from toplora_train.config.errors import RunFailure, UserError


def is_plain_lora(model: PeftModel) -> bool:
    """Whether the active adapter is already PEFT's LoRA (or DoRA)."""
    return str(model.peft_config[model.active_adapter].peft_type.value) == "LORA"


def save_as_lora(model: PeftModel, folder: Path, *, adapter_name: str = "default") -> None:
    """Save an adapter as a LoRA checkpoint in PEFT's format; the model does not change.

    ``modules_to_save`` are included. The tensors are in float32.

    Args:
        model: A model whose adapter is a product of two fixed matrices in every module.
        folder: Destination of ``adapter_config.json`` and ``adapter_model.safetensors``.
        adapter_name: The adapter to export.

    Raises:
        UserError: The adapter is not equivalent to a LoRA (TopLoRA), or not of this package.
        RunFailure: Writing the files failed.
    """
    layers = {
        name: module
        for name, module in model.base_model.model.named_modules()
        if isinstance(module, AdapterLinear) and adapter_name in module.configs
    }
    if not layers:
        kind = str(model.peft_config[adapter_name].peft_type.value)
        raise UserError(
            f"a {kind} adapter cannot be converted: LoRA and DoRA are already saved in PEFT's "
            "format, and PEFT's other methods have no exact plain LoRA"
        )
    with torch.no_grad():
        factors = {name: layer.lora_factors(adapter_name) for name, layer in layers.items()}
    tensors = _saved_modules(model, adapter_name)
    for name, (A, B) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.contiguous()
    config = _lora_config(
        model,
        adapter_name,
        ranks={name: len(A) for name, (A, _) in factors.items()},
        transposed=any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
    )
    try:
        config.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise RunFailure(f"{folder}: the adapter could not be saved ({error})") from error


def _saved_modules(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """The tensors of ``modules_to_save``, keyed by their names in a checkpoint."""
    tensors = peft.get_peft_model_state_dict(
        model, adapter_name=adapter_name, save_embedding_layers=False
    )
    prefixes = adapter_prefixes(model)
    return {
        name: tensor.detach().clone().contiguous()  # a file holds no tensor under two names
        for name, tensor in tensors.items()
        if not any(part.startswith(prefixes) for part in name.split("."))
    }


def _lora_config(
    model: PeftModel, adapter_name: str, *, ranks: dict[str, int], transposed: bool
) -> LoraConfig:
    config = model.peft_config[adapter_name]
    r = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != r}
    return LoraConfig(
        r=r,
        lora_alpha=r,
        rank_pattern=others,
        alpha_pattern=others,
        target_modules=short_names(model, list(ranks)),
        modules_to_save=config.modules_to_save,
        fan_in_fan_out=transposed,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        inference_mode=True,
    )


def short_names(model: PeftModel, adapted: list[str]) -> list[str]:
    """The last parts of the adapted modules' names if unambiguous, otherwise the full names."""
    last = sorted({name.rpartition(".")[2] for name in adapted})
    named = {
        name
        for name, _ in model.base_model.model.named_modules()
        if name.rpartition(".")[2] in last and ".base_layer." not in f"{name}."
    }
    return last if named == set(adapted) else sorted(adapted)
