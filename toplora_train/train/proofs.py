"""What has to be the same, held against each other on the first rows before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.train.processes import Collate
from toplora_train.train.step import IGNORED, Batch, Loss, TrainingExample

EXACT = 1e-5
ROUNDED = 1e-2  # in 16 bits, where another shape or kernel rounds otherwise


@torch.no_grad()
def measured_loss(model: nn.Module, batch: Batch, *, loss: Loss, accelerator: Accelerator) -> float:
    """The summed loss of a batch without dropout, in the precision of the training."""
    model.eval()
    with accelerator.autocast():
        return float(loss(model, batch, accelerator.device))


def tolerance(model: nn.Module, accelerator: Accelerator) -> float:
    """By how much, relatively, two ways of computing the same loss may differ."""
    whole = all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
    return EXACT if whole and accelerator.mixed_precision == "no" else ROUNDED


def prove_packing(
    model: nn.Module,
    examples: Sequence[TrainingExample],
    *,
    padded: Collate,
    packed: Collate,
    loss: Loss,
    accelerator: Accelerator,
) -> None:
    """Show that the model keeps apart what is laid end to end.

    The loss must be that of the padded rows; and, what rounding cannot hide, the loss of the later
    rows must not move when the first one is another text.

    Raises:
        UserError: it does not.
    """
    if len(examples) < 2:
        return
    expected = measured_loss(model, padded(examples), loss=loss, accelerator=accelerator)
    batch = packed(examples)
    found = measured_loss(model, batch, loss=loss, accelerator=accelerator)
    first = slice(0, len(examples[0].input_ids))
    later = batch | {"labels": batch["labels"].clone()}
    later["labels"][:, first] = IGNORED
    other = later | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, first] = batch["input_ids"][:, first].roll(1, dims=1)
    kept, moved = (
        measured_loss(model, one, loss=loss, accelerator=accelerator) for one in (later, other)
    )
    if not (_equal(found, expected, tolerance(model, accelerator)) and _equal(moved, kept, EXACT)):
        raise UserError(
            "trainer.batching=packed: this model does not keep rows apart that are laid end to end "
            f"(their loss is {found:.6g}, padded {expected:.6g}; that of the later rows is "
            f"{kept:.6g}, after another first row {moved:.6g}); use trainer.batching=padded"
        )


def _equal(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * abs(other)
