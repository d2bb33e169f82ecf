"""The proof that the saved adapter, loaded onto a fresh base, is the one that was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toplora_train.adapters.saving import load_adapter


@dataclass(frozen=True)
class ReloadProof:
    """Largest difference of logits; the keys that the file lacked or had too many of."""

    max_abs_logit_difference: float
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@torch.inference_mode()
def probe_logits(model: nn.Module, batch: dict[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    """The logits of a fixed batch, on the CPU, in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
        logits = model(**inputs).logits
    kept: Tensor = logits.float().cpu()
    return kept


def prove_reload(
    fresh_base: PreTrainedModel,
    adapter: Path,
    *,
    expected: Tensor,
    batch: dict[str, Tensor],
    dtype: torch.dtype | None,
) -> ReloadProof:
    """Load ``adapter`` onto ``fresh_base`` and compare its logits with the trained model's.

    Raises:
        UserError: the adapter's file lacks tensors or holds others, each named; so the lists of the
            result are empty, and stand in the report as the statement that they were looked at.
    """
    reloaded = load_adapter(fresh_base, adapter)
    difference = (probe_logits(reloaded, batch, dtype) - expected).abs().max()
    return ReloadProof(float(difference), missing=(), unexpected=())
