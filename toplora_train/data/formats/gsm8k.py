r"""GSM8K's rows, as the hub's ``openai/gsm8k`` has them (arXiv:2110.14168).

::

    {"question": "Ann has 12 pens and buys 7. How many has she?",
     "answer": "She has 12 + 7 = <<12+7=19>>19 pens.\n#### 19"}

The marks of the authors' calculator are left out, and the last line becomes a sentence. Other sets
have these keys as well, so the format has to be named: ``dataset.format=gsm8k``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.data.fields import text
from toplora_train.data.formats import names_of
from toplora_train.data.rows import Row, parse_row

KEYS = ()
_CALCULATION = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def parse(fields: object, *, place: str, **how: Any) -> Row:
    """Read a record of GSM8K: the solution ends in ``The answer is N.`` and ``answer`` is N.

    Args:
        fields: A mapping with ``question`` and ``answer``.
        place: File and row or line, for error messages.
        how: The other arguments of :func:`toplora_train.data.rows.parse_row`.

    Raises:
        UserError: it is no such record, or its answer does not end in ``#### NUMBER``.
    """
    if not isinstance(fields, Mapping) or not {"question", "answer"} <= fields.keys():
        raise UserError(
            f"{place}: no 'question' and 'answer' (found: {names_of(fields)}), which "
            "dataset.format=gsm8k reads; leave it out for rows with instruction and output"
        )
    solution, _, last = text(fields, "answer", place).rpartition("####")
    number = last.strip().replace(",", "")
    if not solution.strip() or not _NUMBER.fullmatch(number):
        raise UserError(
            f"{place}: 'answer' does not end in '#### NUMBER' after a solution; correct the row or "
            "remove it"
        )
    steps = _CALCULATION.sub("", solution).strip()
    row = {
        "instruction": text(fields, "question", place),
        "output": f"{steps}\nThe answer is {number}.",
        "answer": number,
    }
    return parse_row(row, place=place, **how)
