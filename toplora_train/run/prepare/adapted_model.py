"""A finished run's model: the base model with the saved adapter, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters.attach import kernel_of
from toplora_train.adapters.saving import load_adapter
from toplora_train.config.schema import RunConfig
from toplora_train.run.prepare.objective import find_objective, load_base, locate_base
from toplora_train.run.prepare.own_adapter import validate_own_adapter
from toplora_train.run.prepare.special_tokens import open_tokenizer


def load_adapted(
    config: RunConfig, run_dir: Path, *, device: torch.device | str = "cpu"
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load the model of a run and its tokenizer.

    Args:
        config: The run's configuration.
        run_dir: A finished run.
        device: Where to compute.

    Raises:
        UserError: The base model is not available, or the adapter is not the run's
            own or does not fit it.
    """
    location = locate_base(config.model)
    validate_own_adapter(run_dir, location)
    tokenizer = open_tokenizer(config, location)
    base = load_base(config, location, find_objective(config, tokenizer).head)
    adapted = load_adapter(base, run_dir / "adapter", kernel=kernel_of(config.adapter))
    model: PeftModel = adapted.to(device).eval()
    return model, tokenizer
