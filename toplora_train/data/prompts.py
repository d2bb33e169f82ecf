"""The one prompt builder of training, its prefix check and every evaluation.

Rows of a task or data set with its own ``prompt`` use that template instead.

The wording is Alpaca's, which LLM-Adapters (arXiv:2304.01933), DoRA and TopLoRA use, without their
indentation and trailing blanks, which differ between their training and their evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toplora_train.config.plugins import Registry
from toplora_train.config.template import fill
from toplora_train.data.rows import Row

PROMPT_VERSION = 1
"""Raised with every change to a byte of the prompt; part of the protocol's hash."""

PROMPTS: Registry[Callable[[Mapping[str, Any]], str]] = Registry()
"""Prompts of the user's own, chosen by ``prompt: NAME``: functions of a record's columns."""

_REQUEST = "Write a response that appropriately completes the request."
_ALONE = f"Below is an instruction that describes a task. {_REQUEST}"
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    f"context. {_REQUEST}"
)


def build_prompt(instruction: str, input: str = "") -> str:
    r"""The prompt, directly followed by the response; it ends in ``### Response:\n``.

    White space around the instruction and the input is removed (several public test sets carry
    stray blanks, the training sets of the same suite do not); inside, nothing is changed. An input
    of white space alone counts as none.
    """
    instruction, input = instruction.strip(), input.strip()
    opening = _WITH_INPUT if input else _ALONE
    context = f"### Input:\n{input}\n\n" if input else ""
    return f"{opening}\n\n### Instruction:\n{instruction}\n\n{context}### Response:\n"


def row_prompt(row: Row, word: Callable[[str, str], str] = build_prompt) -> str:
    """The prompt of a row that is not a conversation: its own template, filled in verbatim.

    Args:
        row: The row.
        word: Builds the prompt of an instruction and an input, for a row without a template.
    """
    if not row.prompt:
        return word(row.instruction, row.input)
    return fill(row.prompt, {"instruction": row.instruction, "input": row.input})
