"""Rows for tokens that were added to the tokenizer: ``model.resize_embeddings``.

A new row begins as the mean of the old ones, so that an added token is at first as probable as an
average one (Hewitt, 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html). Nothing is
drawn: every load and every process has the same rows. The layers that got rows are trained and
saved with the adapter, since frozen new rows would mean nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toplora_train.config.errors import UserError

KEY = "model.resize_embeddings"


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows that a tokenizer needs: one more than its largest id."""
    return 1 + int(max(tokenizer.get_vocab().values()))


def resize_embeddings(model: PreTrainedModel, rows: int) -> None:
    """Give the embedding, and the output layer if there is one, ``rows`` rows, in place.

    Args:
        model: A model, on the meta device as well; tied weights stay tied.
        rows: How many; more than there are.

    Raises:
        UserError: There are as many rows already, or the architecture cannot be resized.
    """
    embedding: Any = model.get_input_embeddings()
    before: int = embedding.weight.shape[0]
    if rows <= before:
        raise UserError(
            f"{KEY}=true: the tokenizer has no token beyond the embedding's {before} rows; leave "
            "it out"
        )
    try:
        model.resize_token_embeddings(rows, mean_resizing=False)
    except (NotImplementedError, TypeError, AttributeError) as error:
        raise UserError(
            f"{KEY}=true: a {type(model).__name__} cannot be resized: {error}"
        ) from error
    layers: tuple[Any, Any] = (model.get_input_embeddings(), model.get_output_embeddings())
    for layer in layers:
        if layer is None:  # a head has taken the place of the output layer
            continue
        for parameter in layer.parameters():
            old = parameter.data[:before]
            parameter.data[before:] = old.mean(0, dtype=torch.float64).to(old.dtype)
        layer.has_new_rows = True


def resized_modules(model: nn.Module) -> list[str]:
    """The names of the layers that :func:`resize_embeddings` gave rows to."""
    return [name for name, module in model.named_modules() if hasattr(module, "has_new_rows")]
