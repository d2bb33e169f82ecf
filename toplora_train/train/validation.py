"""The loss on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from toplora_train.data.overflow import Examples
from toplora_train.train.processes import Collate, micro_batches
from toplora_train.train.step import Loss, TrainingExample


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module,
    examples: Sequence[TrainingExample],
    *,
    accelerator: Accelerator,
    micro_batch_size: int,
    collate: Collate,
    loss: Loss,
) -> float:
    """Loss per supervised token over ``examples``, without dropout; restores training mode."""
    model.eval()
    counted = Examples.of(examples)
    ordered = counted.select(np.argsort(counted.lengths, kind="stable"))
    total = torch.zeros((), device=accelerator.device)
    for micro in micro_batches(
        ordered, size=micro_batch_size, accelerator=accelerator, collate=collate
    ):
        with accelerator.autocast():
            total += micro.weight * loss(model, micro.batch, accelerator.device)
    model.train()
    return float(accelerator.reduce(total)) / int(counted.supervised.sum())
