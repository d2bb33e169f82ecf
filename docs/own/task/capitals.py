"""The prompt of a question about a capital, and how its answer is read."""

from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.data.prompts import PROMPTS
from toplora_train.evaluation.answers import EXTRACTIONS, Extraction


def quiz(row: Mapping[str, Any]) -> str:
    """The prompt of a row, from all its columns."""
    return f"Name the capital of {row['country'].title()}.\n"


def last_word(text: str, choices: Sequence[str]) -> str | None:
    """The last word of the text; None without any."""
    words = text.split()
    return words[-1].rstrip(".!") if words else None


def same_city(left: str, right: str) -> bool:
    """Whether an extracted answer is the label."""
    return left.casefold() == right.casefold()


PROMPTS["quiz"] = quiz
EXTRACTIONS["last_word"] = Extraction(last_word, same_city)
