"""The general text of a run, on which forgetting is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.data.texts import read_texts, windows
from toplora_train.evaluation.forgetting import Document, change, document_losses


@dataclass(frozen=True)
class GeneralText:
    """Documents and how their loss is computed; without documents nothing is measured.

    Attributes:
        about: The text as configured, where it was read and its digest, for the report.
        documents: The documents.
        batch_size: Windows per forward pass.
        autocast_dtype: Compute under autocast to this dtype; None: no autocast.
    """

    about: Mapping[str, Any]
    documents: Sequence[Document]
    batch_size: int
    autocast_dtype: torch.dtype | None

    def losses(self, model: nn.Module) -> list[float]:
        """The loss of each document; every process computes all of them."""
        if not self.documents:
            return []
        return document_losses(
            model, self.documents, batch_size=self.batch_size, autocast_dtype=self.autocast_dtype
        )

    def change(self, before: Sequence[float], after: Sequence[float]) -> dict[str, Any] | None:
        """The report's entry."""
        if not self.documents:
            return None
        return {**self.about, **asdict(change(before, after, self.documents))}


def read_general_text(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, autocast_dtype: torch.dtype | None
) -> GeneralText:
    """Read and encode the text of ``config.forgetting``.

    Raises:
        UserError: The model is not a language model, or the text cannot be read.
    """
    chosen = config.forgetting
    documents: list[Document] = []
    about: dict[str, Any] = {}
    if chosen.source is not None:
        if head_task(config) is not None:
            raise UserError(
                f"forgetting={chosen.name} is the loss of a language model, and this run trains a "
                "head; remove it"
            )
        texts = read_texts(chosen, data_root=config.mirror)
        cut = [windows(row.output, tokenizer, config.dataset.max_length) for row in texts.rows]
        documents = [Document(tuple(one)) for one in cut if one]
        about = {"text": chosen.source, "source": texts.source, "sha256": texts.sha256}
    return GeneralText(about, documents, config.evaluation.batch_size, autocast_dtype)
