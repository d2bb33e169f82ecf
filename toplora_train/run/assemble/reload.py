"""Check that the saved adapter, loaded onto a fresh base model, is the trained one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toplora_train.adapters.saving import load_adapter
from toplora_train.report.record import Reload

WHOLE, HALF = 1e-3, 0.1
"""Differences of logits, relative to the largest, that rounding does not explain: in float32, and
where weights or computation are in half precision."""


def rounding(model: nn.Module, autocast: torch.dtype | None = None) -> float:
    """The largest relative difference of logits that rounding explains."""
    dtypes = {autocast, *(parameter.dtype for parameter in model.parameters())}
    return HALF if dtypes & {torch.float16, torch.bfloat16} else WHOLE


@torch.no_grad()
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
    kernel: str,
) -> Reload:
    """Load ``adapter`` onto ``fresh_base`` and compare its logits with the trained model's.

    Raises:
        UserError: The adapter's file has missing or unexpected tensors, each named; so the result's
            lists are empty, and record in the report that the keys were checked.
    """
    bound = rounding(fresh_base, dtype)
    reloaded = load_adapter(fresh_base, adapter, kernel=kernel)
    largest = max(1.0, float(expected.abs().max()))
    # In place: these may be the largest tensors of a run.
    difference = float(probe_logits(reloaded, batch, dtype).sub_(expected).abs_().max())
    same = difference <= bound * largest or bool(expected.isnan().any())  # if trained to NaN
    return Reload(difference, missing=[], unexpected=[], same=same)
