"""Base models quantised to 4 or 8 bits by bitsandbytes.

4 bits is QLoRA's format: NF4 with double quantisation (arXiv 2305.14314, section 3).

On a CPU with AVX-512 BF16 a 4-bit layer repacks its weight at its first forward in evaluation mode,
for a kernel that has no backward pass and rounds the scales. A model evaluated before training
would get wrong gradients in every layer but the last, with only a warning; so the layers are kept
in the trainable layout.

An 8-bit layer holds its weight and scales a second time, outside its parameters, where a model's
``to`` does not see them: on a GPU it would multiply by what stayed on the CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from toplora_train.config.errors import UserError


def quantization_config(
    quantization: str, dtype: torch.dtype, kept: Sequence[str] | None
) -> BitsAndBytesConfig:
    """The quantisation settings for transformers.

    Args:
        quantization: ``4bit`` or ``8bit``.
        dtype: The compute dtype.
        kept: Modules not to quantise; None for a language model, whose head never is.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.quantization={quantization} needs bitsandbytes: "
            "pip install 'toplora-train[quant]'"
        )
    if quantization == "8bit":
        from bitsandbytes.nn import Linear8bitLt

        Linear8bitLt._apply = _apply_with_scales
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def keep_trainable(model: nn.Module) -> None:
    """Prevent layers from repacking their weights; call it before the model's first forward.

    Raises:
        UserError: A layer has repacked its weight, which cannot be undone exactly.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise UserError(
                f"{name} is a 4-bit layer that was already evaluated on the CPU and so cannot pass "
                "gradients; reload the model and call "
                "toplora_train.models.quantized.keep_trainable(model) before using it"
            )
        module.support_avx512bf16_for_cpu = False


def _apply_with_scales(
    layer: Any, function: Callable[[Tensor], Tensor], recurse: bool = True
) -> nn.Module:
    """What ``to`` does to a module, for an 8-bit layer."""
    moved: nn.Module = nn.Module._apply(layer, function, recurse)  # type: ignore[no-untyped-call]
    weight = layer.weight
    for holder in (weight, layer.state):
        if getattr(holder, "CB", None) is not None:
            holder.CB = weight.data
        if getattr(holder, "SCB", None) is not None:
            holder.SCB = holder.SCB.to(weight.device)
    return moved
