"""Rows that the model cannot read whole, or that nobody could score: refused before training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.evaluation.methods.base import find_method
from toplora_train.jobs.material import Material


def refuse_unfit_rows(model: nn.Module, material: Material) -> None:
    """Refuse rows before they cost anything.

    Args:
        model: The base model; weights are not needed.
        material: The rows.

    Raises:
        UserError: A training row is longer than the model's positions; a test row has no label, or
            one that no answer can be, or its prompt and answer exceed the positions.
    """
    if material.objective.head is not None:  # where the tokenizer knows what the model reads
        return
    _refuse_long_rows(model, material)
    for test_set in material.test_sets:
        find_method(test_set.kind).validate_rows(model, material.tokenizer, test_set)


def _refuse_long_rows(model: nn.Module, material: Material) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    lengths: Sequence[int] = [len(one.input_ids) for one in material.encoded.examples]
    if positions is None or max(lengths) <= positions:
        return
    long = [index for index, length in enumerate(lengths) if length > positions]
    first = material.rows.rows[material.encoded.kept[long[0]]]
    raise UserError(
        f"{len(long)} rows are longer than the model's {positions} positions, such as row "
        f"'{first.id}' with {lengths[long[0]]} tokens; set dataset.max_length={positions} and "
        "dataset.overflow=drop or truncate"
    )
