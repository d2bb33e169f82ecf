r"""How the public scripts read an answer: the first word that looks like one, by case.

==================  =============================================
BoolQ               first ``true|false``
PIQA                first ``solution1|solution2``
SIQA, ARC, OBQA     first ``answer1|answer2|answer3|answer4|answer5``
HellaSwag           first ``ending1|ending2|ending3|ending4``
WinoGrande          first ``option1|option2``
AQuA                first ``A|B|C|D|E``, inside a word too
numbers             last ``-?\d+\.?\d*`` without commas; right within 0.001
==================  =============================================

For reproduction only; sources as in :mod:`toplora_train.data.legacy`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from toplora_train.config.errors import UserError

_OPTIONS = (
    ("true", "false"),
    ("solution1", "solution2"),
    ("answer1", "answer2", "answer3", "answer4", "answer5"),
    ("ending1", "ending2", "ending3", "ending4"),
    ("option1", "option2"),
    ("A", "B", "C", "D", "E"),
)
_NUMBER = re.compile(r"-?\d+\.?\d*")
_HEADER = "### Response:"
MISS = 0.001


def legacy_pattern(choices: Sequence[str]) -> str:
    """The expression that the scripts look for in answers to questions with these choices.

    Raises:
        UserError: the scripts know no such question.
    """
    for options in _OPTIONS:
        if choices and set(choices) <= set(options):
            return "|".join(options)
    raise UserError(
        f"the legacy protocols have no rule for the choices {', '.join(choices) or '(none)'}; use "
        "evaluation.protocol=clean"
    )


def extract_after_last_header(text: str, extraction: str, choices: Sequence[str]) -> str | None:
    """TopLoRA's: read what follows the last response header that the model wrote, if it did."""
    return _extract(text.split(_HEADER)[-1], extraction, choices)


def extract_before_next_header(text: str, extraction: str, choices: Sequence[str]) -> str | None:
    """LLM-Adapters' and DoRA's: read up to the next response header that the model wrote."""
    return _extract(text.split(_HEADER)[0], extraction, choices)


def is_correct_legacy(prediction: str | None, label: str, extraction: str) -> bool:
    """Equal text, or numbers within 0.001; nothing found is wrong."""
    if prediction is None:
        return False
    if extraction == "number":
        return abs(float(label) - float(prediction)) <= MISS
    return prediction == label


def _extract(text: str, extraction: str, choices: Sequence[str]) -> str | None:
    if extraction == "number":
        numbers = _NUMBER.findall(text.replace(",", ""))
        return numbers[-1] if numbers else None
    if extraction == "choice":
        found = re.search(legacy_pattern(choices), text.strip())
        return found.group() if found else None
    raise UserError(
        f"the legacy protocols have no rule for extraction: {extraction}; use "
        "evaluation.protocol=clean"
    )
