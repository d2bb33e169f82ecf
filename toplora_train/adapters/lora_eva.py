"""EVA: initialise LoRA's A along the principal directions of the layers' inputs.

Paper: "Parameter Efficient Fine-tuning via Explained Variance Adaptation" (arXiv 2410.07170).

    A = the first r right singular vectors of X,   B = 0

Shapes: X (tokens, n) the layer's inputs on training rows, without padding, A (r, n). The update is
exactly zero at the start. PEFT computes the vectors batch by batch until they converge (cosine
above 0.99). It would also redistribute the ranks between layers; here every layer gets as many
vectors as the largest rank and keeps the first r, so that the ranks stay as set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_eva_state_dict
from torch import Tensor

from toplora_train.adapters.lora_start import in_base, linear_layers

INIT = "eva"
INPUTS = ("input_ids", "attention_mask")  # X covers all tokens, prompts included


def start_from_inputs(model: PeftModel, batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Set A of every LoRA layer from its inputs on these batches.

    Raises:
        ValueError: A batch has fewer tokens than the rank, or is of images; or a layer is not
            linear, has fewer inputs than the rank, or is not given every token.
    """
    layers = linear_layers(model, INIT)
    if any(name not in batches[0] for name in INPUTS):
        raise ValueError(f"init {INIT!r} takes token ids, but this model takes images; use another")
    r = max(layer.r["default"] for layer in layers.values())
    tokens = min(int(batch["attention_mask"].sum()) for batch in batches)
    if tokens < r:
        raise ValueError(f"init {INIT!r} needs r = {r} tokens in a batch; one has {tokens}")
    for name, layer in layers.items():
        if layer.in_features < r:
            raise ValueError(
                f"init {INIT!r} needs r = {r} inputs in every layer; {in_base(name)} has "
                f"{layer.in_features}"
            )
    directions = get_eva_state_dict(
        model,
        [{name: batch[name] for name in INPUTS} for batch in batches],
        LoraConfig(r=r, init_lora_weights="eva", eva_config=EvaConfig(rho=1.0)),
        prepare_model_inputs_fn=_mask,
        prepare_layer_inputs_fn=_inputs,
        gather_distributed_inputs=False,  # every process has the same rows
        show_progress_bar=False,
    )
    with torch.no_grad():
        for name, layer in layers.items():
            A = layer.lora_A["default"].weight
            A.copy_(directions[name][: len(A)])


def _mask(batch: Mapping[str, Tensor], _config: LoraConfig) -> Tensor:
    return batch["attention_mask"].bool()


def _inputs(args: tuple[Any, ...], mask: Tensor, name: str) -> Tensor:
    """A layer's inputs without padding, ``(tokens, n)``."""
    x: Tensor = args[0]
    if x.shape[:-1] != mask.shape:
        raise ValueError(
            f"init {INIT!r} is for layers that are given every token, but the input of "
            f"{in_base(name)} is {tuple(x.shape)} for {tuple(mask.shape)} tokens; leave it out by "
            "adapter.exclude_modules"
        )
    return x[mask]
