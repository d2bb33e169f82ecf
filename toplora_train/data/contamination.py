"""Test questions that are also training questions.

Such a row measures memory. MAWPS' training set, a part of the common math training set, holds most
of AddSub, MultiArith and SingleEq word for word: a score on those needs to say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from toplora_train.data.rows import Row

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d]+")  # numbers keep their fraction: 3.5 is not 35


def contaminated_ids(
    train: Iterable[Row], tests: Mapping[str, Iterable[Row]]
) -> dict[str, tuple[str, ...]]:
    """For each test set, the ids of the rows whose question is asked in training too.

    Questions (instruction and input) are one where their words and numbers are, in order; case,
    punctuation and white space do not count. Rephrased questions are not found.
    """
    learned = {_words(row) for row in train}
    return {
        name: tuple(row.id for row in rows if _words(row) in learned)
        for name, rows in tests.items()
    }


def _words(row: Row) -> str:
    return " ".join(_WORD.findall(f"{row.instruction} {row.input}".casefold()))
