"""The evaluation protocols: how prompts are worded and answers decoded, extracted and scored.

``clean`` is this project's own and the default. ``legacy.toplora`` and ``legacy.llm_adapters``
follow the papers' public scripts, to reproduce published numbers; their scores are never compared
with clean ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toplora_train.config.decoding import PROTOCOL_LIMITS
from toplora_train.config.errors import UserError
from toplora_train.data.legacy import llm_adapters_prompt, toplora_prompt
from toplora_train.data.prompts import build_prompt
from toplora_train.evaluation.answers import extract_answer, is_correct
from toplora_train.evaluation.legacy import (
    extract_after_last_header,
    extract_before_next_header,
    is_correct_legacy,
)


@dataclass(frozen=True)
class Protocol:
    """One evaluation protocol.

    Attributes:
        name: Its name in the configuration.
        build_prompt: Maps an instruction and an input to the prompt.
        extract: Extracts the answer from ``(text, extraction, choices)``; None if there is none.
        is_correct: Whether ``(answer, label, extraction)`` is correct.
        num_beams: Beams of beam search; 1 is greedy.
        by_length: Whether rows are batched by length, or in the file's order.
        max_new_tokens: The most tokens of an answer; None: the task's limit.
        chooses: Whether options may be ranked by likelihood, and answers verified in one pass
            instead of decoded.
    """

    name: str
    build_prompt: Callable[[str, str], str]
    extract: Callable[[str, str, Sequence[str]], str | None]
    is_correct: Callable[[str | None, str, str], bool]
    num_beams: int = 1
    by_length: bool = True
    max_new_tokens: int | None = None
    chooses: bool = False


CLEAN = Protocol("clean", build_prompt, extract_answer, is_correct, chooses=True)
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        CLEAN,
        Protocol(
            "legacy.toplora",
            toplora_prompt,
            extract_after_last_header,
            is_correct_legacy,
            by_length=False,
            max_new_tokens=PROTOCOL_LIMITS["legacy.toplora"],
        ),
        Protocol(
            "legacy.llm_adapters",
            llm_adapters_prompt,
            extract_before_next_header,
            is_correct_legacy,
            num_beams=4,
            by_length=False,
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        UserError: there is none.
    """
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol '{name}'; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
