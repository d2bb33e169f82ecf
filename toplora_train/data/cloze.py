"""Cloze form of multiple choice: the question alone, with the text of each option as an answer.

LLM-Adapters' rows list their options and are answered by a label ("the correct answer is answer2").
Small models cannot associate labels with options, so their score does not show what they know; they
are compared in the cloze form instead (OLMES, arXiv:2406.08446).
"""

from __future__ import annotations

import re
from dataclasses import replace

from toplora_train.config.errors import UserError
from toplora_train.data.on_disk import OnDisk
from toplora_train.data.rows import Row, RowSet, content_hash

_FORMAT = re.compile(r"\s*Answer format:\s*(\S+)\s*$")


def offered(row: Row) -> list[str]:
    """The labels that a row's "Answer format: a/b" offers; empty if it has none."""
    found = _FORMAT.search(row.instruction)
    return found[1].split("/") if found else []


def as_cloze(rows: RowSet) -> RowSet:
    """Convert rows to questions without the list, and the text of each option in ``options``.

    Raises:
        UserError: A row lists no options, or its answer is not one of them.
    """
    converted = OnDisk(_cloze(row) for row in rows.rows)
    return RowSet(converted, rows.source, content_hash(converted))


def _cloze(row: Row) -> Row:
    found = _FORMAT.search(row.instruction)
    if found is None or row.messages:
        raise UserError(
            f"{row.where}: it does not list its options ('... Answer format: a/b'), so it has no "
            "cloze form; use evaluation.multiple_choice=choose or generate"
        )
    labels = found[1].split("/")
    question, listed = _listed(row.instruction[: found.start()], labels)
    if not listed:  # "Answer format: true/false": the labels are the answers
        listed = [(label, label) for label in labels]
    words = {label.casefold(): text for label, text in listed if text}
    options = {label: words.get(label.casefold(), "") for label in labels}
    if not len(listed) == len(words) == len(labels) or not all(options.values()):
        raise UserError(
            f"{row.where}: its answer format is {found[1]}, but it does not list one option for "
            "each label; correct the row"
        )
    if row.answer not in options:
        raise UserError(
            f"{row.where}: its answer {row.answer!r} is not one of {', '.join(labels)}; correct or "
            "remove the row"
        )
    return replace(
        row, instruction=question, output=options[row.answer], options=tuple(options.items())
    )


def _listed(text: str, labels: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The question, and each ``Label:`` with the text after it."""
    named = "|".join(re.escape(label) for label in labels)
    question, *rest = re.split(rf"\s*\b({named})\s*:", text, flags=re.IGNORECASE)
    texts = [part.strip() for part in rest[1::2]]
    return question.strip(), list(zip(rest[::2], texts, strict=True))
