"""Values of a record that came out of a file: checked, and called by their JSON names."""

from __future__ import annotations

from collections.abc import Mapping

from toplora_train.config.errors import UserError


def text(fields: Mapping[object, object], name: str, place: str) -> str:
    """The text under a key, empty where there is none.

    Raises:
        UserError: It is no text, or one that cannot be written; the message begins with ``place``.
    """
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"{place}: '{name}' must be text, not {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: '{name}' holds half of a two-part \\u escape, which is no character; mend it"
        ) from None
    return value


def label(fields: Mapping[object, object], name: str, place: str) -> str:
    """Text, or a number as its text: ``"answer": 19`` and ``"id": 7`` say what they mean.

    Raises:
        UserError: It is neither.
    """
    value = fields.get(name, "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text(fields, name, place)


def kind(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case Mapping():
            return "an object"
        case _:
            return "a list"
