"""Values of a file's record, validated in this one place and called by their JSON names.

Null, NaN, booleans and numbers mean the same whether a text, a short answer, a class label or a
regression target is read:

* null is an absent value, as pandas and Parquet write it;
* NaN and infinity are refused;
* a boolean is never read as 0 or 1;
* a number is an answer as its text, ``1.0`` as ``1``, and a class label as the class's number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.data.tables import ClassNumber

_KINDS: tuple[tuple[Any, str], ...] = (
    (type(None), "null"),
    (bool, "a boolean"),
    (int | float, "a number"),
    (str, "a text"),
    (Mapping, "an object"),
    (list | tuple, "a list"),
)


def text(fields: Mapping[object, object], name: str, place: str) -> str:
    """The text under a key, empty where there is none.

    Raises:
        UserError: It is not text, or cannot be encoded; the message begins with ``place``.
    """
    return _text(fields, name, place, "text")


def label(fields: Mapping[object, object], name: str, place: str) -> str:
    """Text, or a number as its text (:func:`number_text`): ``"answer": 19``, ``"id": 7``.

    Raises:
        UserError: It is neither, or NaN or infinite.
    """
    value = fields.get(name, "")
    if _finite(value):
        return number_text(value)
    return _text(fields, name, place, "a text or a finite number")


def number_text(value: object) -> str:
    """A number as text: ``0.5``, and ``1.0`` as ``1``, since tables with gaps have only floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def class_name(
    fields: Mapping[object, object], name: str, place: str, choices: Sequence[str]
) -> str:
    """The class under a key: its name, or its number among ``choices``, which count from 0.

    The number may be a text (``"0"``) or a whole float (``1.0``, as a table with gaps has it). A
    number to which the file itself gives the name of a choice is that choice.

    Raises:
        UserError: It is none of the choices, or names one class and numbers another.
    """
    value = fields[name]
    if isinstance(value, ClassNumber) and value.name in choices:  # whatever numbers the file has
        return value.name
    listed = ", ".join(f"{number} {choice}" for number, choice in enumerate(choices))
    if isinstance(value, str) and value in choices:
        return value
    number = _whole(value)
    if number == -1:
        raise UserError(
            f"{place}: '{name}' is -1, which marks a hidden label; choose another split"
        )
    if number is None or not 0 <= number < len(choices):
        raise UserError(
            f"{place}: '{name}' is {shown(value)}, which is none of the choices ({listed}); give "
            "a class's name or its number"
        )
    if str(number) in choices and choices[number] != str(number):
        raise UserError(
            f"{place}: '{name}' is the number {number}, which numbers the class {choices[number]} "
            f'and names another ({listed}); write the name as text: "{number}"'
        )
    return choices[number]


def number(fields: Mapping[object, object], name: str, place: str) -> float:
    """The finite number under a key, which may be written as text.

    Raises:
        UserError: It is none.
    """
    value = fields[name]
    try:
        found = float(value) if isinstance(value, str) or _finite(value) else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(
            f"{place}: '{name}' is {shown(value)}, but must be a finite number; correct it or "
            "remove the row"
        )
    return found


def lacks(fields: Mapping[object, object], name: str) -> str:
    """Says that a key has no value: it is null, or not among the keys found."""
    if name in fields:
        return f"'{name}' is null"
    return f"no '{name}' (found: {', '.join(map(str, fields)) or 'no keys'})"


def kind(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "an infinite number"
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return f"a value of the type {type(value).__name__}"


def shown(value: object, longest: int = 60) -> str:
    """A value as JSON, for a message."""
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= longest else f"{written[:longest]}..."


def _text(fields: Mapping[object, object], name: str, place: str, wanted: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        remedy = f'; write it as text: "{shown(value)}"' if isinstance(value, bool) else ""
        raise UserError(f"{place}: '{name}' must be {wanted}, not {kind(value)}{remedy}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: '{name}' contains half of a surrogate pair (\\u escape), which is "
            "not a character; correct it"
        ) from None
    return value


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: object) -> int | None:
    """The integer that a value is or spells; None if it is neither."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*-?\d{1,18}\s*", value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
