"""EVA: initialise LoRA's A along the principal directions of the layers' inputs.

Paper: "Parameter Efficient Fine-tuning via Explained Variance Adaptation" (arXiv 2410.07170).

    A = the first r right singular vectors of X,   B = 0

Shapes: X (tokens, n) the layer's inputs on training rows, without padding, A (r, n). The update is
exactly zero at the start. PEFT computes the vectors batch by batch until they converge (cosine
above 0.99); ranks are not redistributed between layers (rho = 1), so that the rank stays as set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import EvaConfig, PeftModel, initialize_lora_eva_weights
from torch import Tensor

INPUTS = ("input_ids", "attention_mask")  # X covers all tokens, prompts included


def start_from_inputs(model: PeftModel, batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Set A of every LoRA layer from its inputs on these batches.

    Raises:
        ValueError: A batch has fewer tokens than the rank, or is of images.
    """
    config: Any = model.peft_config["default"]
    if any(name not in batches[0] for name in INPUTS):
        raise ValueError("init 'eva' takes token ids, but this model takes images; use another")
    tokens = min(int(batch["attention_mask"].sum()) for batch in batches)
    if tokens < config.r:
        raise ValueError(f"init 'eva' needs r = {config.r} tokens in a batch; one has {tokens}")
    before = (config.init_lora_weights, config.eva_config, config.target_modules)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=1.0)
    with torch.no_grad():
        initialize_lora_eva_weights(
            model,
            dataloader=[{name: batch[name] for name in INPUTS} for batch in batches],
            gather_distributed_inputs=False,  # every process has the same rows
            show_progress_bar=False,
        )
    # The saved config must be a plain LoRA's, whether or not the run was resumed.
    config.init_lora_weights, config.eva_config, config.target_modules = before
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
