"""Refuse rows that the model cannot read in full, or that cannot be scored, before training."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters.attach import without_weights
from toplora_train.config.errors import UserError, one_line
from toplora_train.data.overflow import Examples
from toplora_train.data.pixels import ImageReader
from toplora_train.evaluation.methods.base import find_method
from toplora_train.run.prepare.run_data import RunData


def validate_rows(model: nn.Module, run_data: RunData) -> None:
    """Check all rows before training.

    Args:
        model: The base model; weights are not needed.
        run_data: The rows.

    Raises:
        UserError: The tokenizer has tokens that the embedding lacks; a training row exceeds the
            model's positions; a test row has no label or an impossible one, or its prompt and
            answer exceed the positions.
    """
    if isinstance(run_data.tokenizer, ImageReader):
        _validate_images(model, run_data)
        return
    _validate_vocabulary(model, run_data.tokenizer)
    if run_data.objective.head is not None:  # there the tokenizer limits the length
        return
    _validate_row_lengths(model, run_data)
    for eval_set in run_data.eval_sets:
        find_method(eval_set.kind).validate_rows(model, run_data.tokenizer, eval_set)


def _validate_images(model: nn.Module, run_data: RunData) -> None:
    """Refuse images that the model does not take, such as of a size that it has no positions for.

    It computes one without values on the meta device.
    """
    shape, empty = run_data.encoded.examples[0].pixels.shape, without_weights(model)
    try:
        empty(pixel_values=torch.empty(1, *shape, device="meta"))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{run_data.location.name}: does not take the images of {shape[1]} x {shape[2]} pixels "
            f"that its preprocessor_config.json makes ({one_line(error)}); correct one of its files"
        ) from error


def _validate_vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with ids beyond the embedding, which would raise an index error."""
    rows: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]  # a model of transformers
    beyond = sorted((id, token) for token, id in tokenizer.get_vocab().items() if id >= rows)
    if beyond:
        raise UserError(
            f"the tokenizer has {len(beyond)} more tokens than the model's embedding has rows "
            f"({rows}), {beyond[0][1]!r} first; use the model's own tokenizer, or set "
            "model.resize_embeddings=true, which adds the rows and trains and saves the embedding "
            "and the output layer with the adapter"
        )


def _validate_row_lengths(model: nn.Module, run_data: RunData) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    lengths = Examples.of(run_data.encoded.examples).lengths
    if positions is None or lengths.max() <= positions:
        return
    long = (lengths > positions).nonzero()[0]
    first = run_data.rows.rows[run_data.encoded.kept[long[0]]]
    raise UserError(
        f"{len(long)} rows are longer than the model's {positions} positions, the first "
        f"{first.where} with {lengths[long[0]]} tokens; set dataset.max_length={positions} and "
        "dataset.overflow=drop or truncate"
    )
