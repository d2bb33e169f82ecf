"""Multiple choice without the list: the question alone, answered in an answer's own words.

LLM-Adapters' rows list their answers and are answered by a label ("the correct answer is answer2").
A small model does not bind labels to what they stand for, so its score says nothing of what it
knows; small models are compared in the cloze form instead (OLMES, arXiv:2406.08446).
"""

from __future__ import annotations

import re
from dataclasses import replace

from toplora_train.config.errors import UserError
from toplora_train.data.rows import Row, RowSet, content_hash

_FORMAT = re.compile(r"\s*Answer format:\s*(\S+)\s*$")


def as_cloze(rows: RowSet) -> RowSet:
    """The rows as questions alone, with the words of each answer in ``options``.

    Raises:
        UserError: A row lists no answers, or its own is not among them.
    """
    told = tuple(_cloze(row) for row in rows.rows)
    return RowSet(told, rows.source, content_hash(told))


def _cloze(row: Row) -> Row:
    found = _FORMAT.search(row.instruction)
    if found is None or row.messages:
        raise UserError(
            f"{row.where}: no answers are listed in it ('... Answer format: a/b'), so it has no "
            "cloze form; use evaluation.multiple_choice=choose or generate"
        )
    labels = found[1].split("/")
    question, *words = _listed(row.instruction[: found.start()], labels)
    if not words:  # "Answer format: true/false": the labels are the answers
        words = labels
    options = dict(zip(labels, words, strict=False))
    if len(words) != len(labels) or not all(words):
        raise UserError(
            f"{row.where}: its answer format is {found[1]}, but it does not list one answer for "
            "each; correct the row"
        )
    if row.answer not in options:
        raise UserError(
            f"{row.where}: its answer {row.answer!r} is none of {', '.join(labels)}; correct or "
            "remove the row"
        )
    return replace(
        row, instruction=question, output=options[row.answer], options=tuple(options.items())
    )


def _listed(text: str, labels: list[str]) -> list[str]:
    """The question, then what stands after each ``Label:``, in their order."""
    named = "|".join(re.escape(label) for label in labels)
    return [part.strip() for part in re.split(rf"\s*\b(?:{named})\s*:", text, flags=re.IGNORECASE)]
