"""Formats of rows: a module each, which is recognised by the record's keys or named.

A module has ``KEYS``, the keys by which a record is recognised (none: only by
``dataset.format=NAME``), and ``parse``, which is called like
:func:`toplora_train.data.rows.parse_row` and returns the row. What ``parse_row`` reads itself,
``instruction``, ``messages`` and ``text``, is no module here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.methods import format_names
from toplora_train.data.rows import OWN_KEYS, Row, parse_row


def find_format(fields: Mapping[Any, Any], name: str | None, place: str) -> Callable[..., Row]:
    """The function that turns a record into a row.

    Args:
        fields: The record.
        name: The configured format; None recognises it.
        place: File and row or line, for error messages.

    Raises:
        UserError: The record has the keys of two formats.
    """
    if name is not None:
        parse: Callable[..., Row] = import_module(f"{__name__}.{name}").parse
        return parse
    present = {key for key, value in fields.items() if value is not None}
    marks = _marks()
    found = [keys for keys in marks if present.issuperset(keys)]
    if len(found) > 1:
        both = " and ".join(f"'{' + '.join(keys)}'" for keys in found[:2])
        raise UserError(
            f"{place}: has {both}, so it is not clear what to train on; remove one of them"
        )
    return marks[found[0]] if found else parse_row


@cache
def _marks() -> dict[tuple[str, ...], Callable[..., Row]]:
    """By the keys that mark a format, the function that reads it: the same for every record."""
    marks: dict[tuple[str, ...], Callable[..., Row]] = {(key,): parse_row for key in OWN_KEYS}
    for module in (import_module(f"{__name__}.{found}") for found in format_names()):
        if module.KEYS:
            marks[module.KEYS] = module.parse
    return marks


def names_of(fields: object) -> str:
    """The keys of a record, for an error message."""
    return ", ".join(map(str, fields)) if isinstance(fields, Mapping) else "no keys"
