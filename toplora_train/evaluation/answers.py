"""Extract and score the answer in a generated text: the clean protocol.

==========  ======================================================================================
``number``  the number after the last "answer is", of a sum ("3 + 4 = 7") its result; without such a
            statement, the last number
``choice``  the option after the last "answer is"; without one, the only option mentioned
``exact``   the whole output, white space normalised
==========  ======================================================================================

A model that does not stop writes a new "### Instruction:" after its answer; everything from that
header on is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toplora_train.config.errors import UserError, one_line
from toplora_train.config.plugins import Registry, registered
from toplora_train.data.rows import Row
from toplora_train.evaluation.numbers import find_numbers, parse_number, same_number

_STATEMENT = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*[:=])", re.IGNORECASE)
_CLAUSE_END = re.compile(r",\s|[;(]|\b(?:because|since|as)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
_NEXT_QUESTION = re.compile(r"\n\s*### Instruction:")
_TOKEN = re.compile(r"\w+")


def extract_answer(text: str, extraction: str, choices: Sequence[str] = ()) -> str | None:
    """Extract the answer from ``text``, or return None if there is none.

    Args:
        text: The model's output after the prompt.
        extraction: A name in :data:`EXTRACTIONS`.
        choices: The options of a ``choice``; single letters are case-sensitive ("a total of" is not
            option A), longer options are not. Empty: any single word is an option.

    Raises:
        UserError: ``extraction`` is unknown.
    """
    answer_part = _NEXT_QUESTION.split(text, maxsplit=1)[0]
    return find_extraction(extraction).extract(answer_part, choices)


def is_correct(prediction: str | None, label: str, extraction: str) -> bool:
    """Whether an extracted ``prediction`` equals the ``label``; None is never correct."""
    return prediction is not None and find_extraction(extraction).same(prediction, label)


def row_label(row: Row, extraction: str) -> str:
    """The row's gold label: its ``answer`` or, where any text is one, its ``output``."""
    return row.answer or ("" if extraction in ("number", "choice") else row.output)


def same_choice(left: str, right: str) -> bool:
    """Whether two options are equal; single letters are compared with case, words without."""
    left, right = left.strip(), right.strip()
    return left == right or (len(left) > 1 and left.casefold() == right.casefold())


def normalise_space(text: str) -> str:
    """Strip ``text`` and collapse every run of white space to one blank."""
    return " ".join(text.split())


def same_text(left: str, right: str) -> bool:
    """Whether two texts are equal but for white space."""
    return normalise_space(left) == normalise_space(right)


def _same_number(left: str, right: str) -> bool:
    predicted, gold = parse_number(left), parse_number(right)
    return predicted is not None and gold is not None and same_number(predicted, gold)


def _extract_all(text: str, _choices: Sequence[str]) -> str | None:
    return normalise_space(text) or None


def _extract_number(text: str, _choices: Sequence[str]) -> str | None:
    for statement in _statements(text):
        for clause in _CLAUSE_END.split(statement):  # what follows explains: ", because 2 + 4 = 6"
            # "the answer is 3 + 4 = 7": the result follows the last equals sign
            found = find_numbers(clause.rpartition("=")[2]) or find_numbers(clause)
            if found:
                return found[0].text
    found = find_numbers(text)
    return found[-1].text if found else None


def _extract_choice(text: str, choices: Sequence[str]) -> str | None:
    for statement in _statements(text):
        found = _find_choices(statement, choices)
        if found:
            return found[0]
    distinct = set(_find_choices(text, choices))
    return distinct.pop() if len(distinct) == 1 else None


def _find_choices(text: str, choices: Sequence[str]) -> list[str]:
    if not choices:
        return _TOKEN.findall(text)
    options = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    found = re.findall(rf"(?<!\w)(?:{options})(?!\w)", text, re.IGNORECASE)
    return [choice for match in found for choice in choices if same_choice(match, choice)]


def _statements(text: str) -> list[str]:
    """The text after each "answer is" up to the end of its sentence, last statement first."""
    starts = [match.end() for match in _STATEMENT.finditer(text)]
    return [_SENTENCE_END.split(text[start:].lstrip(), maxsplit=1)[0] for start in reversed(starts)]


@dataclass(frozen=True)
class Extraction:
    """How an answer is read from a text and scored.

    Attributes:
        extract: Maps a text and the task's choices to the answer, or None if there is none.
        same: Whether an extracted answer equals the label.
    """

    extract: Callable[[str, Sequence[str]], str | None]
    same: Callable[[str, str], bool] = same_text


EXTRACTIONS: Registry[Extraction] = Registry(
    number=Extraction(_extract_number, _same_number),
    choice=Extraction(_extract_choice, same_choice),
    exact=Extraction(_extract_all),
)
"""The extractions by name; a module of the user's own may add some."""


def find_extraction(name: str) -> Extraction:
    """The extraction of this name, whose functions refuse to fail or to give anything else.

    Raises:
        UserError: There is none, and no module of the user's own has added it; or, when they are
            called, they fail, or give no text, or not whether two are the same.
    """
    found = registered(EXTRACTIONS, name, "extraction")
    if not isinstance(found, Extraction):
        raise UserError(f"extraction {name} must be an Extraction(extract, same), not {found!r}")

    def extract(text: str, choices: Sequence[str]) -> str | None:
        answer = _call(name, found.extract, text, choices)
        if answer is None or isinstance(answer, str):
            return answer
        raise UserError(f"extraction {name} must give a text or None, not {answer!r}")

    def same(left: str, right: str) -> bool:
        answer = _call(name, found.same, left, right)
        if answer in (True, False):
            return bool(answer)
        raise UserError(f"extraction {name}: same must give True or False, not {answer!r}")

    return Extraction(extract, same)


def _call(name: str, function: Callable[..., Any], *given: Any) -> Any:
    try:
        return function(*given)
    except UserError:
        raise
    except Exception as error:  # the function may be the user's own
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"extraction {name} failed on {given[0][:60]!r} ({reason})") from error
