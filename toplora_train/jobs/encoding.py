"""Training rows as tokens, in the way of the protocol that they will be asked in."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from toplora_train.data.encode import Encoded, Example, encode_rows, prove_prompt_prefix
from toplora_train.data.legacy import (
    SUPERVISES_PROMPT,
    count_prompt_mismatches,
    encode_legacy_rows,
    training_prompt,
)
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row


def learned_prompt(protocol: str) -> str:
    """What stands before a response in training, ``{instruction}`` in the place of a row's."""
    build = training_prompt if protocol in SUPERVISES_PROMPT else build_prompt
    return build("{instruction}")


def encode_for(
    protocol: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    overflow: str,
) -> tuple[Encoded[Example], int]:
    """Encode the rows; return also how many are asked in other tokens than they are learned in.

    Under the clean protocol that number is proven to be 0. A legacy protocol has its own strings,
    its own cut-off of 256 tokens (``max_length`` and ``overflow`` are not its own), and asks in
    others than it trains in: that is reported, not an error.

    Raises:
        UserError: see :func:`toplora_train.data.encode.encode_rows` and ``prove_prompt_prefix``.
    """
    if protocol in SUPERVISES_PROMPT:
        encoded = encode_legacy_rows(tokenizer, rows, supervise_prompt=SUPERVISES_PROMPT[protocol])
        return encoded, count_prompt_mismatches(tokenizer, rows, encoded, protocol=protocol)
    encoded = encode_rows(tokenizer, rows, max_length=max_length, overflow=overflow)
    prove_prompt_prefix(tokenizer, rows, encoded)
    return encoded, 0
