"""Rows with other keys, mapped by ``{instruction: question, output: response}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from toplora_train.config.errors import UserError, one_line
from toplora_train.config.template import (
    PROMPT_FIELDS,
    columns,
    escape,
    fill,
    fill_partly,
    over_fields,
)
from toplora_train.data.fields import label, lacks
from toplora_train.data.prompts import PROMPTS
from toplora_train.data.rows import Row, parse_row

COMMON_NAMES = {
    "instruction": ("question", "prompt", "query", "problem", "text", "sentence"),
    "output": ("response", "completion", "solution", "answer", "target"),
    "answer": ("label", "gold", "target", "solution", "output", "response", "completion"),
}
"""Common names of these fields in public data sets, suggested by error messages."""


def parse_renamed(
    fields: object,
    *,
    names: Mapping[Any, str],
    place: str,
    key: str = "dataset",
    prompt: str | None = None,
    **how: Any,
) -> Row:
    """Read a record as :func:`toplora_train.data.rows.parse_row` does, under other names.

    Args:
        fields: The record.
        names: Maps our keys to the file's. A key that is not named keeps its own name, unless
            another one takes it.
        place: File and row or line, for error messages.
        key: The group of settings that ``names`` and ``prompt`` are from, for error messages.
        prompt: The template of the row's prompt; None for the project's own prompt.
        how: The other arguments of ``parse_row``.

    Raises:
        UserError: a named column is missing, or the record is not a row.
    """
    if not isinstance(fields, Mapping):
        return parse_row(fields, place=place, **how)
    for ours, theirs in names.items():
        if theirs not in fields:
            raise UserError(
                f"{place}: {lacks(fields, theirs)}, which {key}.fields names as the row's "
                f"{ours}; {_remedy(fields, names, key, [ours])}"
            )
    template = None if prompt is None else over_fields(prompt, names)
    others = [] if template is None else [c for c in columns(template) if c not in PROMPT_FIELDS]
    moved = {*names, *names.values(), *others}
    record = {column: value for column, value in fields.items() if column not in moved}
    record |= {ours: fields[theirs] for ours, theirs in names.items()}
    _validate_present(fields, record, names, place=place, key=key, **how)
    row = parse_row(record, place=place, **how)
    return row if template is None else _with_prompt(row, template, fields, others, place, key)


def _with_prompt(
    row: Row,
    template: str,
    fields: Mapping[Any, Any],
    others: list[str],
    place: str,
    key: str,
) -> Row:
    """The row with its prompt template, in which only instruction and input are left to fill in.

    A row in another form (a cloze) keeps the template around its new question.
    """
    if row.messages:
        raise UserError(
            f"{place}: has 'messages', which the model's own chat template turns into a prompt; "
            f"leave {key}.prompt out, or give rows without messages"
        )
    if template in PROMPTS:
        try:
            return replace(row, prompt=escape(PROMPTS[template](fields)))
        except Exception as error:  # of the user's own function
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"{place}: {key}.prompt={template} failed ({reason})") from error
    if not columns(template):
        raise UserError(f"{key}.prompt={template}: its module adds no such function to PROMPTS")
    for column in others:
        if fields.get(column) is None:
            near = get_close_matches(column, map(str, fields), n=1)
            guess = f"; did you mean {{{near[0]}}}?" if near and column not in fields else ""
            raise UserError(
                f"{place}: {lacks(fields, column)}, which {key}.prompt names{guess or '; '}"
                f"{'' if guess else 'name columns that every row has'}"
            )
    values = {column: label(fields, column, place) for column in others}
    prompt = fill_partly(template, values)
    if not fill(prompt, {"instruction": row.instruction, "input": row.input}).strip():
        raise UserError(f"{place}: {key}.prompt gives it an empty prompt; fill in its columns")
    return replace(row, prompt=prompt)


def _validate_present(
    fields: Mapping[Any, Any],
    record: Mapping[Any, Any],
    names: Mapping[Any, str],
    *,
    place: str,
    key: str,
    needs_answer: bool = False,
    **_: Any,
) -> None:
    """Refuse a record without a question or an answer, proposing the column that may hold it."""
    if record.get("messages") is not None:
        return
    if "instruction" not in record:
        missing = ["instruction", *(["answer"] if needs_answer and "answer" not in record else [])]
        raise UserError(
            f"{place}: {lacks(fields, 'instruction')}; rows need an instruction and an output or "
            f"answer, or messages: {_remedy(fields, names, key, missing)}"
        )
    if needs_answer and "answer" not in record and {*COMMON_NAMES["answer"]} & {*fields}:
        raise UserError(
            f"{place}: no 'answer' to score against (found: {', '.join(map(str, fields))}); "
            f"{_remedy(fields, names, key, ['answer'])}"
        )


def _remedy(
    fields: Mapping[Any, Any], names: Mapping[Any, str], key: str, missing: list[str]
) -> str:
    """A value of ``KEY.fields`` to paste into the command line."""
    found = [str(column) for column in fields]
    named = {str(ours): theirs for ours, theirs in names.items() if ours not in missing}
    for ours in missing:
        near = get_close_matches(names[ours], found, n=1) if ours in names else []
        named[ours] = next(
            (name for name in (*near, *COMMON_NAMES.get(ours, ())) if name in found), "COLUMN"
        )
    if "output" not in found and "answer" not in {*found, *named} and "output" not in named:
        guess = next((name for name in COMMON_NAMES["output"] if name in found), None)
        named |= {} if guess is None else {"output": guess}
    pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in named.items())
    return f"try {key}.fields='{{{pairs}}}'"
