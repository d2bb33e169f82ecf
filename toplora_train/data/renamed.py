"""Rows of a user's files: keys mapped by ``{instruction: question}``, then their format found."""

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
from toplora_train.data.formats import find_format
from toplora_train.data.prompts import PROMPTS
from toplora_train.data.rows import OWN_KEYS, TEXT, Row, parse_row

COMMON_NAMES = {
    "instruction": ("question", "prompt", "query", "problem", "text", "sentence"),
    "messages": ("conversation", "dialog", "dialogue", "chat", "turns"),
    "input": ("context",),
    "output": ("response", "completion", "solution", "answer", "target"),
    "answer": ("label", "gold", "target", "solution", "output", "response", "completion"),
}
"""Common names of these fields in public data sets, suggested by error messages."""
LABELS = ("label", "labels", "class", "category", "sentiment", "gold_label", "score", "rating")
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question", "sentence"),
)
TEXTS = ("text", "sentence", "review", "content", "comment", "tweet", "title", "question")


def parse_renamed(
    fields: object,
    *,
    names: Mapping[Any, str],
    place: str,
    key: str = "dataset",
    prompt: str | None = None,
    format: str | None = None,
    needs_output: bool = False,
    **how: Any,
) -> Row:
    """Read a record as :func:`toplora_train.data.rows.parse_row` does, under other names.

    The format is that of the record with our names, see :mod:`toplora_train.data.formats`.

    Args:
        fields: The record.
        names: Maps our keys to the file's. A key that is not named keeps its own name, unless
            another one takes it.
        place: File and row or line, for error messages.
        key: The group of settings that ``names`` and ``prompt`` are from, for error messages.
        prompt: The template of the row's prompt; None for the project's own prompt.
        format: The format of the rows; None recognises it.
        needs_output: Whether the row is trained on, for error messages.
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
    parse = find_format(record, format, place)
    if parse is parse_row:
        _validate_present(
            fields, record, names, place=place, key=key, needs_output=needs_output, **how
        )
    row = parse(record, place=place, **how)
    return row if template is None else _with_prompt(row, template, fields, others, place, key)


def _with_prompt(
    row: Row, template: str, fields: Mapping[Any, Any], others: list[str], place: str, key: str
) -> Row:
    """The row with its prompt template, in which only instruction and input are left to fill in.

    A row in another form (a cloze) keeps the template around its new question.
    """
    if row.messages:
        raise UserError(
            f"{place}: has 'messages', which the model's own chat template turns into a prompt; "
            f"leave {key}.prompt out, or give rows without messages"
        )
    if row.form:
        raise UserError(
            f"{place}: is {'plain text' if row.form == TEXT else 'a prompt and its completion'}, "
            f"which is used as it is; leave {key}.prompt out, or name its columns: "
            f"{key}.fields='{{instruction: COLUMN, output: COLUMN}}'"
        )
    if template in PROMPTS:
        try:
            written = PROMPTS[template](fields)
            return replace(row, prompt=escape(written), context=written)
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
    return replace(row, prompt=prompt, context="\n".join(values.values()))


def _validate_present(
    fields: Mapping[Any, Any],
    record: Mapping[Any, Any],
    names: Mapping[Any, str],
    *,
    place: str,
    key: str,
    needs_output: bool,
    needs_answer: bool = False,
    **_: Any,
) -> None:
    """Refuse a record without a question or an answer, proposing the column that may hold it."""
    if record.get("messages") is not None:
        return
    lacks_instruction = record.get("instruction") is None
    described = key != "dataset" or any(name in names for name in (*OWN_KEYS, TEXT))
    classify = _table_hint(fields) if lacks_instruction and not described else ""
    needed = {"output": needs_output, "answer": needs_answer}
    absent = [name for name, wanted in needed.items() if wanted and name not in record]
    if lacks_instruction and (record.get("text") is None or classify):
        conversation = {*COMMON_NAMES["messages"]} & {*fields}
        missing = ["messages"] if conversation else ["instruction", *absent]
        learn_text = f"; to learn the text alone: {key}.fields='{{text: text}}'"
        raise UserError(
            f"{place}: {lacks(fields, 'instruction')}; rows need an instruction and an output"
            f"{'' if needs_output else ' or answer'}, or messages: "
            f"{_remedy(fields, names, key, missing)}{classify}"
            f"{learn_text if record.get('text') is not None else ''}"
        )
    for name in absent:
        plain_text = name == "output" and lacks_instruction
        if {*COMMON_NAMES[name]} & {*fields} and not plain_text:
            use = "train on" if name == "output" else "score against"
            raise UserError(
                f"{place}: no '{name}' to {use} (found: {', '.join(map(str, fields))}); "
                f"{_remedy(fields, names, key, [name])}"
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
    guessed = [] if {"output", "answer"} & {*found, *named} else ["output"]
    for ours in () if "messages" in missing else (*guessed, "input"):
        left = {*found} - {*named.values()} if ours not in {*found, *named} else ()
        guess = next((name for name in COMMON_NAMES[ours] if name in left), None)
        named |= {} if guess is None else {ours: guess}
    pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in named.items())
    return f"try {key}.fields='{{{pairs}}}'"


def _table_hint(fields: Mapping[Any, Any]) -> str:
    """How to classify instead, if the record looks like a text or a pair with its label."""
    label = next((name for name in LABELS if name in fields), None)
    pair = next((pair for pair in PAIRS if {*pair} <= {*fields}), None)
    texts = pair or [next((name for name in TEXTS if name in fields), None)]
    if label is None or texts[0] is None:
        return ""
    columns = f"[{','.join(map(str, texts))}]" if pair else str(texts[0])
    return (
        f"; to classify, or to predict a number: dataset=table dataset.text={columns} "
        f"dataset.label={label}"
    )
