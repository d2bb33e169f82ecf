"""A row: what is asked, what is to be said, and what counts as right.

Every source, whatever its file format, becomes :class:`Row` objects here; this is the only place
that knows the schema ``instruction, input, output, answer`` (LLM-Adapters', arXiv:2304.01933).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from toplora_train.config.errors import UserError

TEXT_FIELDS = ("instruction", "input", "output", "answer")


@dataclass(frozen=True)
class Row:
    """One example.

    ``output`` is the text to learn (empty where a row is only asked), ``answer`` the short gold
    answer that an evaluation compares with (empty where a row is only learned).
    """

    id: str
    instruction: str
    input: str
    output: str
    answer: str


@dataclass(frozen=True)
class RowSet:
    """Rows, where they were found and what they hold.

    ``source`` is an absolute path or ``hub id@revision``; ``sha256`` is :func:`content_hash`, so
    two runs on the same rows agree in it wherever the rows were stored.
    """

    rows: tuple[Row, ...]
    source: str
    sha256: str


def parse_row(fields: object, *, place: str, default_id: str, needs_answer: bool = False) -> Row:
    """Check one record of a file and return it as a row.

    Args:
        fields: What the file holds: a mapping with ``instruction`` and, where wanted, ``input``,
            ``output``, ``answer`` and ``id``. Null counts as absent. Other keys are let be, unless
            they look like a slip of an absent one (``inputs``).
        place: File and row or line, for error messages.
        default_id: The id of a row that brings none of its own.
        needs_answer: Whether a row without ``answer`` is an error (rows that are to be scored).

    Raises:
        UserError: The record is not such a mapping; the message begins with ``place``.
    """
    if not isinstance(fields, Mapping):
        raise UserError(
            f"{place}: a row is an object with 'instruction' and 'output', not {_kind(fields)}"
        )
    present = {name: value for name, value in fields.items() if value is not None}
    if "instruction" not in present:
        found = ", ".join(map(str, fields)) or "no keys"
        raise UserError(
            f"{place}: no 'instruction' (found: {found}); rows need the keys instruction and "
            "output, and may have input, answer and id"
        )
    _refuse_slips(present, place)
    instruction = _text(present, "instruction", place)
    if not instruction.strip():
        raise UserError(f"{place}: 'instruction' is empty; fill it in or remove the row")
    answer = _label(present, "answer", place)
    if needs_answer and not answer.strip():
        raise UserError(f"{place}: no 'answer' to score against; add one to every row")
    return Row(
        id=_label(present, "id", place) or default_id,
        instruction=instruction,
        input=_text(present, "input", place),
        output=_text(present, "output", place),
        answer=answer,
    )


def content_hash(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows' four texts, one canonical JSON object a line; ids do not count."""
    digest = hashlib.sha256()
    for row in rows:
        content = {name: getattr(row, name) for name in TEXT_FIELDS}
        digest.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _text(fields: Mapping[object, object], name: str, place: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"{place}: '{name}' must be text, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: '{name}' holds half of a two-part \\u escape, which is no character; mend it"
        ) from None
    return value


def _label(fields: Mapping[object, object], name: str, place: str) -> str:
    """Text, or a number as its text: ``"answer": 19`` and ``"id": 7`` say what they mean."""
    value = fields.get(name, "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(fields, name, place)


def _refuse_slips(fields: Mapping[object, object], place: str) -> None:
    absent = [name for name in TEXT_FIELDS if name not in fields]
    if not absent:
        return
    for key in fields:
        if key in TEXT_FIELDS:
            continue
        nearest = get_close_matches(str(key).lower(), absent, n=1, cutoff=0.8)
        if nearest:
            raise UserError(
                f"{place}: unknown key '{key}'; did you mean '{nearest[0]}'? Rename or remove it"
            )


def _kind(value: object) -> str:
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
