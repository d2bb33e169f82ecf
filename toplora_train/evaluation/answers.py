"""The answer in a generated text, and whether it is right: the clean protocol.

==========  ======================================================================================
``number``  the number after the last "answer is"; without such a statement, the last number
``choice``  the option after the last "answer is"; without one, the only option that is named
``exact``   the whole output, white space normalised
==========  ======================================================================================

A model that does not stop writes a new "### Instruction:" after its answer. What follows that
header answers another question and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from toplora_train.data.rows import Row
from toplora_train.evaluation.numbers import find_numbers, parse_number, same_number

EXTRACTIONS = ("number", "choice", "exact")

_STATEMENT = re.compile(r"\banswer(?:\s+is\b|\s*[:=])", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
_NEXT_QUESTION = re.compile(r"\n\s*### Instruction:")
_TOKEN = re.compile(r"\w+")


def extract_answer(text: str, extraction: str, choices: Sequence[str] = ()) -> str | None:
    """Return the answer that ``text`` gives, or ``None`` where it gives none.

    Args:
        text: What the model wrote after the prompt.
        extraction: ``number``, ``choice`` or ``exact``.
        choices: The options of a ``choice``; single letters are told apart by case ("a total of"
            is no option A), longer options are not. Empty: any one word is an option.

    Raises:
        ValueError: ``extraction`` is none of the three.
    """
    answer_part = _NEXT_QUESTION.split(text, maxsplit=1)[0]
    if extraction == "number":
        return _extract_number(answer_part)
    if extraction == "choice":
        return _extract_choice(answer_part, choices)
    if extraction == "exact":
        return normalise_space(answer_part) or None
    raise ValueError(f"extraction is one of {', '.join(EXTRACTIONS)}, not {extraction!r}")


def is_correct(prediction: str | None, label: str, extraction: str) -> bool:
    """Whether an extracted ``prediction`` is the ``label``; no prediction is never right."""
    if prediction is None:
        return False
    if extraction == "number":
        said, gold = parse_number(prediction), parse_number(label)
        return said is not None and gold is not None and same_number(said, gold)
    if extraction == "choice":
        return same_choice(prediction, label)
    return normalise_space(prediction) == normalise_space(label)


def row_label(row: Row, extraction: str) -> str:
    """Return what the row's answer is held against: ``answer``; for ``exact``, else ``output``."""
    return row.answer or (row.output if extraction == "exact" else "")


def same_choice(left: str, right: str) -> bool:
    """Whether two options are one: letters by case, words without."""
    left, right = left.strip(), right.strip()
    return left == right or (len(left) > 1 and left.casefold() == right.casefold())


def normalise_space(text: str) -> str:
    """Strip ``text`` and make every run of white space one blank."""
    return " ".join(text.split())


def _extract_number(text: str) -> str | None:
    for statement in _statements(text):
        # "the answer is 3 + 4 = 7": what stands after the last equals sign is the result
        found = find_numbers(statement.rpartition("=")[2]) or find_numbers(statement)
        if found:
            return found[0].text
    found = find_numbers(text)
    return found[-1].text if found else None


def _extract_choice(text: str, choices: Sequence[str]) -> str | None:
    for statement in _statements(text):
        named = _named_choices(statement, choices)
        if named:
            return named[0]
    different = set(_named_choices(text, choices))
    return different.pop() if len(different) == 1 else None


def _named_choices(text: str, choices: Sequence[str]) -> list[str]:
    if not choices:
        return _TOKEN.findall(text)
    options = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    found = re.findall(rf"(?<!\w)(?:{options})(?!\w)", text, re.IGNORECASE)
    return [choice for said in found for choice in choices if same_choice(said, choice)]


def _statements(text: str) -> list[str]:
    """What follows each "answer is", up to the end of its sentence; the last statement first."""
    starts = [match.end() for match in _STATEMENT.finditer(text)]
    return [_SENTENCE_END.split(text[start:].lstrip(), maxsplit=1)[0] for start in reversed(starts)]
