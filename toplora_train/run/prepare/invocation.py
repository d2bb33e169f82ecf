"""The token ids of Activated LoRA's invocation, which every training prompt must contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.run.prepare.run_data import RunData


def with_invocation(config: RunConfig, run_data: RunData) -> RunConfig:
    """The run with ``adapter.invocation_tokens``; unchanged if its adapter has none.

    Raises:
        UserError: A training row lacks them before its first supervised token, rows are packed, or
            the task has a head.
    """
    if "invocation" not in config.adapter:
        return config
    if config.trainer.batching == "packed":
        raise UserError(
            "trainer.batching=packed: only the last of the rows that are packed together would "
            f"activate adapter={config.adapter['name']}; use trainer.batching=padded"
        )
    if run_data.objective.head is not None:
        raise UserError(
            f"adapter={config.adapter['name']} is for generation: a head's rows have no invocation;"
            " use adapter=lora"
        )
    text, tokens = config.adapter["invocation"], config.adapter["invocation_tokens"]
    what = f"adapter.invocation_tokens={tokens} occur"
    if tokens is None:
        tokens = run_data.tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = run_data.tokenizer.convert_ids_to_tokens(tokens)
        what = f"adapter.invocation='{text}', tokens {tokens} ({' '.join(pieces)}), occurs"
    examples = run_data.encoded.examples
    lacking = [i for i, one in enumerate(examples) if not tokens or not _activated(one, tokens)]
    if lacking:
        first = run_data.rows.rows[run_data.encoded.kept[lacking[0]]]
        raise UserError(
            f"{what} in the prompts of {len(examples) - len(lacking)} of {len(examples)} training "
            f"rows; the first without is {first.where}. Choose a part of every prompt that the "
            "tokenizer does not join with its surroundings"
        )
    return replace(config, adapter={**config.adapter, "invocation_tokens": list(tokens)})


def _activated(example: Any, tokens: Sequence[int]) -> bool:
    """Whether the tokens occur before the first supervised one (anywhere in plain text)."""
    learned, ids, count = example.learned, list(example.input_ids), len(tokens)
    end = learned.index(1) if 1 in learned else len(ids)
    end = end if end > 1 else len(ids)
    return any(ids[start : start + count] == list(tokens) for start in range(end - count + 1))
