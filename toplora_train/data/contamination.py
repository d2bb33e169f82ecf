"""Contamination: test questions that are also in the training data.

Such rows measure memorization. MAWPS' training set, part of the common math training set, contains
most of AddSub, MultiArith and SingleEq verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from toplora_train.data.rows import Row

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d]+")  # numbers keep their fraction: 3.5 is not 35


def contaminated_ids(
    train: Iterable[Row], tests: Mapping[str, Iterable[Row]]
) -> dict[str, tuple[str, ...]]:
    """For each test set, the ids of the rows whose question is also in the training data.

    Questions (instruction and input) are equal if their words and numbers are, in order; case,
    punctuation and whitespace are ignored. Rephrased questions are not found.
    """
    trained = {_words(row) for row in train}
    return {
        name: tuple(row.id for row in rows if _words(row) in trained)
        for name, rows in tests.items()
    }


def _words(row: Row) -> str:
    return " ".join(_WORD.findall(f"{row.instruction} {row.input}".casefold()))
