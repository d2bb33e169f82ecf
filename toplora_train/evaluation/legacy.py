r"""Answer extraction of the papers' public scripts: the first matching word, case-sensitive.

==================  =============================================
BoolQ               first ``true|false``
PIQA                first ``solution1|solution2``
SIQA, ARC, OBQA     first ``answer1|answer2|answer3|answer4|answer5``
HellaSwag           first ``ending1|ending2|ending3|ending4``
WinoGrande          first ``option1|option2``
AQuA                first ``A|B|C|D|E``, inside a word too
numbers             last ``-?\d+\.?\d*`` without commas; correct within 0.001
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
TOLERANCE = 0.001


def legacy_pattern(choices: Sequence[str]) -> str:
    """The scripts' regular expression for questions with these choices.

    Raises:
        UserError: the scripts have none.
    """
    for options in _OPTIONS:
        if choices and set(choices) <= set(options):
            return "|".join(options)
    raise UserError(
        f"the legacy protocols have no rule for the choices {', '.join(choices) or '(none)'}; use "
        "evaluation.protocol=clean"
    )


def extract_after_last_header(text: str, extraction: str, choices: Sequence[str]) -> str | None:
    """TopLoRA's: read the text after the last response header in the output, if there is one."""
    return _extract(text.split(_HEADER)[-1], extraction, choices)


def extract_before_next_header(text: str, extraction: str, choices: Sequence[str]) -> str | None:
    """LLM-Adapters' and DoRA's: read the text before the first response header in the output."""
    return _extract(text.split(_HEADER)[0], extraction, choices)


def is_correct_legacy(prediction: str | None, label: str, extraction: str) -> bool:
    """Whether the texts are equal or the numbers within 0.001; None is never correct.

    Raises:
        UserError: The label is not a number in the format of the scripts.
    """
    if extraction == "number":
        try:
            number = float(label)
        except ValueError:
            raise UserError(
                f"its answer {label!r} is not a number that the legacy protocols read; write it "
                "with digits only, or use evaluation.protocol=clean"
            ) from None
        return prediction is not None and abs(number - float(prediction)) <= TOLERANCE
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
