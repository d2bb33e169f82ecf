"""An adapter written as a plain LoRA, for everything that reads LoRA and nothing else.

TensLoRA and GenLoRA are, module by module, the product of two thin matrices. Those are written,
with the scaling in B (``lora_alpha = r``): the plain LoRA computes what the adapter does.
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
    """Whether the active adapter is PEFT's LoRA (or DoRA) already."""
    return str(model.peft_config[model.active_adapter].peft_type.value) == "LORA"


def save_as_lora(model: PeftModel, folder: Path, *, adapter_name: str = "default") -> None:
    """Write an adapter as a LoRA checkpoint of PEFT's format; the adapter itself is left as it is.

    Modules that were trained whole go with it. The tensors are in float32.

    Args:
        model: A model with an adapter that is, in every module, a product of two fixed matrices.
        folder: Where to write ``adapter_config.json`` and ``adapter_model.safetensors``.
        adapter_name: Which of the model's adapters.

    Raises:
        UserError: The adapter has no such form (TopLoRA), or is no adapter of this package.
        RunFailure: The file system refused.
    """
    layers = {
        name: module
        for name, module in model.base_model.model.named_modules()
        if isinstance(module, AdapterLinear) and adapter_name in module.configs
    }
    if not layers:
        kind = str(model.peft_config[adapter_name].peft_type.value)
        raise UserError(
            f"a {kind} adapter is not converted: LoRA and DoRA are saved as PEFT's own already, "
            "and PEFT's other methods have no exact plain LoRA"
        )
    with torch.no_grad():
        factors = {name: layer.lora_factors(adapter_name) for name, layer in layers.items()}
    tensors = _trained_whole(model, adapter_name)
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


def _trained_whole(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """The tensors of ``modules_to_save``, under the names that they have in a file."""
    tensors = peft.get_peft_model_state_dict(
        model, adapter_name=adapter_name, save_embedding_layers=False
    )
    prefixes = adapter_prefixes(model)
    return {
        name: tensor.detach().contiguous()
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
        target_modules=_short_names(model, list(ranks)),
        modules_to_save=config.modules_to_save,
        fan_in_fan_out=transposed,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        inference_mode=True,
    )


def _short_names(model: PeftModel, adapted: list[str]) -> list[str]:
    """The last components of the adapted modules' names, where they name no other module."""
    last = sorted({name.rpartition(".")[2] for name in adapted})
    named = {
        name
        for name, _ in model.base_model.model.named_modules()
        if name.rpartition(".")[2] in last and ".base_layer." not in f"{name}."
    }
    return last if named == set(adapted) else sorted(adapted)
