r"""Forgetting: the loss on general text before and after fine-tuning.

With the summed negative log-likelihoods :math:`l_d, l'_d` of document d before and after, and its
:math:`T_d` predicted tokens, the change of the loss in nats per token is

.. math:: \Delta = \frac{\sum_d (l'_d - l_d)}{\sum_d T_d}.

Its interval is the jackknife's over the n documents, with Student's t and :math:`\Delta_{-d}`
computed without document d:

.. math:: \Delta \pm t_{n-1} \sqrt{\frac{n-1}{n} \sum_d (\Delta_{-d} - \Delta)^2}

Source: B. Efron, R. Tibshirani, An introduction to the bootstrap (1993), chapter 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import torch
from scipy.special import stdtrit
from torch import nn

from toplora_train.evaluation.forward import autocast, evaluating, longest_first


@dataclass(frozen=True)
class Document:
    """A document's windows of token ids; in each the first token is not predicted."""

    windows: tuple[tuple[int, ...], ...]

    @property
    def predicted(self) -> int:
        """The number of predicted tokens."""
        return sum(len(window) - 1 for window in self.windows)


@dataclass(frozen=True)
class Change:
    """Losses in nats per token, their difference and its 95 % interval (NaN for one document)."""

    before: float
    after: float
    difference: float
    ci95: tuple[float, float]
    documents: int
    tokens: int


@torch.no_grad()
def document_losses(
    model: nn.Module,
    documents: Sequence[Document],
    *,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> list[float]:
    """The summed negative log-likelihood of each document, in nats.

    Args:
        model: A causal language model.
        documents: At least one.
        batch_size: Windows per forward pass.
        autocast_dtype: Compute under autocast to this dtype; None: no autocast.
    """
    device = next(model.parameters()).device
    windows = [(index, window) for index, one in enumerate(documents) for window in one.windows]
    losses = [0.0] * len(documents)
    with evaluating(model), autocast(device, autocast_dtype):
        for batch in longest_first([window for _, window in windows], batch_size):
            width = max(len(windows[place][1]) for place in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, place in enumerate(batch):
                window = windows[place][1]
                ids[row, : len(window)] = torch.tensor(window)
                mask[row, : len(window)] = 1
            ids, mask = ids.to(device), mask.to(device)
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            token_losses = nn.functional.cross_entropy(
                logits.transpose(1, 2), ids[:, 1:], reduction="none"
            )
            sums = (token_losses * mask[:, 1:]).sum(1).double().tolist()
            for place, loss in zip(batch, sums, strict=True):
                losses[windows[place][0]] += loss
    return losses


def change(
    before: Sequence[float], after: Sequence[float], documents: Sequence[Document]
) -> Change:
    """The change of the loss; see the module's equations.

    Args:
        before: The base model's :func:`document_losses`.
        after: The fine-tuned model's.
        documents: The documents.
    """
    tokens = np.array([document.predicted for document in documents], dtype=np.float64)
    gained = np.array(after) - np.array(before)
    n, total = len(documents), float(tokens.sum())
    difference = float(gained.sum()) / total
    half = nan
    if n > 1:
        without = (gained.sum() - gained) / (total - tokens)
        variance = (n - 1) / n * float(((without - difference) ** 2).sum())
        half = float(stdtrit(n - 1, 0.975)) * sqrt(variance)
    return Change(
        sum(before) / total,
        sum(after) / total,
        difference,
        (difference - half, difference + half),
        n,
        int(total),
    )
