"""Validate a task's rows before evaluating any, and encode their prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.data.chat import question_ids
from toplora_train.data.rows import Row
from toplora_train.evaluation.answers import row_label, same_choice
from toplora_train.evaluation.numbers import parse_number


def validate_prompts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    texts: Sequence[str],
    *,
    extraction: str,
    max_new_tokens: int,
    choices: Sequence[str] = (),
) -> list[list[int]]:
    """Refuse rows that cannot be evaluated; return the token ids of the prompts.

    Args:
        model: A causal language model; weights are not needed.
        tokenizer: Its tokenizer.
        rows: The test rows.
        texts: Their prompts.
        extraction: How answers are extracted: ``number``, ``choice`` or ``exact``.
        max_new_tokens: The most tokens of an answer.
        choices: The options of a ``choice``.

    Raises:
        UserError: there are no rows, two have the same id, one has no answer or one that can never
            be extracted, or a prompt and its answer exceed the model's positions.
    """
    if not rows:
        raise UserError("a task without rows has no score; check its source and evaluation.limit")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(
                f"{row.where}: another row has the same id '{row.id}'; ids must be unique"
            )
        seen.add(row.id)
        _validate_label(row.where, row_label(row, extraction), extraction, choices)
    return [
        encode_within_positions(model, tokenizer, row, text, max_new_tokens=max_new_tokens)
        for row, text in zip(rows, texts, strict=True)
    ]


def uninvoked(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> str | None:
    """What to say of prompts that do not activate an Activated LoRA; None if all do.

    Args:
        model: With or without an adapter.
        tokenizer: Its tokenizer.
        prompts: The test rows' prompts.
    """
    config = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
    tokens = list(getattr(config, "alora_invocation_tokens", None) or ())
    if not tokens:
        return None

    def lacks(prompt: str) -> bool:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return all(ids[at : at + len(tokens)] != tokens for at in range(len(ids)))

    lacking = [prompt for prompt in prompts if lacks(prompt)]
    if not lacking:
        return None
    return (
        f"{len(lacking)} of {len(prompts)} prompts lack the adapter's invocation (tokens "
        f"{tokens}), so the base model answered them"
    )


def encode_within_positions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    text: str,
    *,
    max_new_tokens: int,
) -> list[int]:
    """The token ids of a row's prompt ``text``, which fit the model with an answer.

    Raises:
        UserError: the prompt and its answer exceed the model's positions.
    """
    ids = question_ids(tokenizer, row, text)
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if positions is not None and len(ids) + max_new_tokens > positions:
        raise UserError(
            f"{row.where}: its prompt of {len(ids)} tokens and an answer of up to "
            f"{max_new_tokens} exceed the model's {positions} positions; shorten or remove the "
            "row, or lower max_new_tokens"
        )
    return ids


def _validate_label(name: str, label: str, extraction: str, choices: Sequence[str]) -> None:
    if not label.strip():
        raise UserError(f"{name}: no 'answer' to score against; add one to the row")
    if extraction == "number" and parse_number(label) is None:
        raise UserError(
            f"{name}: its answer {label!r} is not one number; correct it, or score the task "
            "with extraction: exact"
        )
    if extraction == "choice" and choices and not any(same_choice(label, c) for c in choices):
        raise UserError(
            f"{name}: its answer {label!r} is none of the task's choices {', '.join(choices)}"
        )
