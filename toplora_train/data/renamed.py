"""Rows under other keys: ``{instruction: question, output: response}`` says which is which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.data.fields import lacks
from toplora_train.data.rows import Row, parse_row


def parse_renamed(fields: object, *, names: Mapping[Any, str], place: str, **how: Any) -> Row:
    """Read a record as :func:`toplora_train.data.rows.parse_row` does, under other names.

    Args:
        fields: The record.
        names: Our key to the file's. A key of ours that is not named keeps its own name, unless
            another one takes it.
        place: File and row or line, for error messages.
        how: The other arguments of ``parse_row``.

    Raises:
        UserError: a named key is not there, or the record is no row.
    """
    if not isinstance(fields, Mapping):
        return parse_row(fields, place=place, **how)
    for ours, theirs in names.items():
        if theirs not in fields:
            raise UserError(
                f"{place}: {lacks(fields, theirs)}, which dataset.fields names as the row's "
                f"{ours}; correct the name"
            )
    taken = set(names.values())
    kept = {key: value for key, value in fields.items() if key not in taken and key not in names}
    return parse_row(
        kept | {ours: fields[theirs] for ours, theirs in names.items()}, place=place, **how
    )
