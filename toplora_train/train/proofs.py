"""Checks before the first step that other kernels, and packing, leave the loss unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.train.processes import Collate
from toplora_train.train.step import IGNORED, Batch, Loss, TrainingExample

EXACT = 1e-5
ROUNDED = 1e-2  # in 16 bits, where other shapes or kernels round differently


@torch.no_grad()
def measured_loss(model: nn.Module, batch: Batch, *, loss: Loss, accelerator: Accelerator) -> float:
    """The summed loss of a batch without dropout, in the training precision."""
    model.eval()
    with accelerator.autocast():
        return float(loss(model, batch, accelerator.device))


def tolerance(model: nn.Module, accelerator: Accelerator) -> float:
    """The relative difference allowed between two ways of computing the same loss."""
    fp32 = all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
    return EXACT if fp32 and accelerator.mixed_precision == "no" else ROUNDED


def prove_layers(
    model: nn.Module,
    batch: Batch,
    *,
    settings: str,
    off: str,
    changed: AbstractContextManager[None],
    loss: Loss,
    accelerator: Accelerator,
) -> None:
    """Check that computing the layers in another way leaves loss and gradient norm unchanged.

    Args:
        model: The model.
        batch: Rows to compute the loss of.
        settings: The settings that change the layers, as they are typed.
        off: The settings that do not.
        changed: Inside, the layers are changed.
        loss: The loss.
        accelerator: Where and in which precision it is computed.

    Raises:
        UserError: The loss or the norm changes, or the layers cannot be computed so.
    """
    expected, norm = _loss_and_gradient(model, batch, loss=loss, accelerator=accelerator)
    try:
        with changed:
            found, size = _loss_and_gradient(model, batch, loss=loss, accelerator=accelerator)
    except UserError:
        raise
    except Exception as error:  # whatever a compiler or a kernel raises
        if should_reduce_batch_size(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise UserError(
            f"{settings}: the model's layers cannot be computed so here ({reason}); inductor needs "
            f"a C++ compiler on a CPU, and like Liger Triton on a GPU; use {off}"
        ) from error
    bound = tolerance(model, accelerator)
    if not (_equal(found, expected, bound) and _equal(size, norm, 10 * bound)):
        raise UserError(
            f"{settings} changes this model's results: the loss of the first rows is {found:.7g}, "
            f"not {expected:.7g}, the gradient norm {size:.7g}, not {norm:.7g}; use {off}"
        )


def prove_packing(
    model: nn.Module,
    examples: Sequence[TrainingExample],
    *,
    padded: Collate,
    packed: Collate,
    loss: Loss,
    accelerator: Accelerator,
) -> None:
    """Check that packed rows do not attend to each other.

    The packed loss must equal the padded one. As rounding could hide a leak, the loss of the later
    rows must also stay the same when the first row's tokens change.

    Raises:
        UserError: they do.
    """
    if len(examples) < 2:
        return
    expected = measured_loss(model, padded(examples), loss=loss, accelerator=accelerator)
    batch = packed(examples)
    found = measured_loss(model, batch, loss=loss, accelerator=accelerator)
    first = slice(0, len(examples[0].input_ids))
    later = batch | {"labels": batch["labels"].clone()}
    later["labels"][:, first] = IGNORED
    altered = later | {"input_ids": batch["input_ids"].clone()}
    altered["input_ids"][:, first] = batch["input_ids"][:, first].roll(1, dims=1)
    kept, moved = (
        measured_loss(model, one, loss=loss, accelerator=accelerator) for one in (later, altered)
    )
    if not (_equal(found, expected, tolerance(model, accelerator)) and _equal(moved, kept, EXACT)):
        raise UserError(
            "trainer.batching=packed: in this model packed rows attend to each other (loss "
            f"{found:.6g} packed, {expected:.6g} padded; of the later rows {kept:.6g}, "
            f"{moved:.6g} after a different first row); use trainer.batching=padded"
        )


def _loss_and_gradient(
    model: nn.Module, batch: Batch, *, loss: Loss, accelerator: Accelerator
) -> tuple[float, float]:
    """The summed loss without dropout and its gradient norm; no ``.grad`` is written."""
    model.eval()
    with accelerator.autocast():
        summed = loss(model, batch, accelerator.device)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(summed, trainable, allow_unused=True)
    present = [gradient for gradient in gradients if gradient is not None]
    return float(summed.detach()), float(nn.utils.get_total_norm(present))


def _equal(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * abs(other)
