"""Contamination: test questions that are also in the training data.

Such rows measure memorization. MAWPS' training set, part of the common math training set, contains
most of AddSub, MultiArith and SingleEq verbatim.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import regex  # type: ignore[import-untyped]  # knows Unicode's categories

from toplora_train.config.errors import UserError
from toplora_train.data.rows import Row

# Numbers keep their fraction: 3.5 is not 35. Words keep their marks, as Hindi's vowels are. Symbols
# count, and what may be an operator: before a number, or between blanks.
_TOKEN = regex.compile(
    r"\p{N}+(?:\.\p{N}+)?|[\p{L}\p{M}_]+|\p{S}|[-*/](?=\s?\p{N})|(?<=\s)[-*/](?=\s)"
)


def contaminated_ids(
    train: Iterable[Row], tests: Mapping[str, Iterable[Row]]
) -> dict[str, tuple[str, ...]]:
    """For each test set, the ids of the rows whose question is also in the training data.

    Questions (instruction and input, or the user's messages) are equal if their words, numbers and
    symbols are, in order; case, punctuation, whitespace and the Unicode form are ignored. Rephrased
    questions are not found.

    What a question is about has to be equal too, where both rows have it: the other columns in a
    row's prompt, or a conversation's other messages and its tools. The wording of a prompt template
    does not count, so a question is also found in rows with another template or with none.
    """
    questions = {
        name: [(row.id, _words(row.instruction, row.input), _context(row)) for row in rows]
        for name, rows in tests.items()
    }
    trained: dict[str, set[str]] = {  # the contexts in which a test set's question is trained on
        words: set() for of_test in questions.values() for _, words, _ in of_test if words
    }
    for row in train if trained else ():
        contexts = trained.get(_words(row.instruction, row.input))
        if contexts is not None:
            contexts.add(_context(row))
    return {
        name: tuple(
            id for id, words, context in of_test if _is_in(trained.get(words, set()), context)
        )
        for name, of_test in questions.items()
    }


def _is_in(contexts: set[str], context: str) -> bool:
    """Whether a context is among those of its question; none, on either side, is any."""
    return bool(contexts) and (not context or not contexts.isdisjoint(("", context)))


def _context(row: Row) -> str:
    others = (f"{one.content} {one.tool_calls}" for one in row.messages if one.role != "user")
    return _words(row.context, row.tools, *others)


def _words(*texts: str) -> str:
    text = unicodedata.normalize("NFKC", " ".join(texts))
    return " ".join(_TOKEN.findall(text.casefold()))


KNOWN = {"math_data.json": "LLM-Adapters' math_data.json contains about 80 % of six math test sets"}


def validate_sources(sources: Sequence[str], *, allowed: Sequence[str]) -> None:
    """Refuse files that are known to contain test rows.

    Args:
        sources: The training sources.
        allowed: Names of such files to accept anyway.

    Raises:
        UserError: A source is such a file; the message says how to allow it.
    """
    for source in sources:
        name = PurePosixPath(source.rpartition(":")[2]).name
        if name in KNOWN and name not in allowed:
            raise UserError(
                f"{source}: {KNOWN[name]}; train on other data (dataset=math_10k), or allow it "
                f"explicitly: dataset.allow_leaks=[{name}]"
            )


def validate_overlap(
    found: Mapping[str, Sequence[str]], sizes: Mapping[str, int], *, most: float
) -> None:
    """Refuse training data that contains too much of a test set.

    Args:
        found: For each test set, the ids of the rows that are also in the training data.
        sizes: The number of rows of each test set.
        most: The largest allowed share; 1 disables the check.

    Raises:
        UserError: The limit is exceeded; the message names the test set and some of the rows.
    """
    for name, ids in found.items():
        if len(ids) / sizes[name] > most:
            raise UserError(
                f"{len(ids)} of the {sizes[name]} test rows of {name} are also in the training "
                f"data ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}); remove them, or "
                "raise dataset.max_overlap to only report them"
            )
