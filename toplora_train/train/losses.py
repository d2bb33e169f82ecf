"""Losses of a classification or regression head: one label or number per row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from toplora_train.train.step import Batch, on_device


def label_loss(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """The sum of -log p(label) over a batch's rows; ``labels`` are class indices."""
    return functional.cross_entropy(
        head_outputs(model, batch, device), on_device(batch["labels"], device), reduction="sum"
    )


def value_loss(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """The sum of squared errors over a batch's rows; ``labels`` are floats."""
    predicted = head_outputs(model, batch, device).squeeze(-1)
    return functional.mse_loss(predicted, on_device(batch["labels"], device), reduction="sum")


def head_outputs(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """The head's outputs in fp32: ``(rows, classes)``, or ``(rows, 1)`` for regression."""
    inputs = {name: on_device(tensor, device) for name, tensor in batch.items() if name != "labels"}
    outputs: Tensor = model(**inputs).logits
    return outputs.float()
