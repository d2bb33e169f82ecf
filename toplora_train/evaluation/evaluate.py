"""One task: prompts, answers written or chosen, and a score with its uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.data.chat import question_ids, question_text
from toplora_train.data.rows import Row
from toplora_train.evaluation.answers import row_label, same_choice
from toplora_train.evaluation.choose import choose, encode_choices
from toplora_train.evaluation.forced import prove_answers
from toplora_train.evaluation.forward import by_length
from toplora_train.evaluation.generate import generate
from toplora_train.evaluation.numbers import parse_number
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.protocol import CLEAN, Protocol
from toplora_train.evaluation.shared_prompt import common_start
from toplora_train.evaluation.statistics import majority_share
from toplora_train.evaluation.tally import NEW, Answer, Ledger, Score, Scores, tally

__all__ = [
    "Prediction",
    "Score",
    "check_task",
    "evaluate_choices",
    "evaluate_task",
    "majority_share",
    "row_label",
]


def evaluate_task(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    extraction: str,
    max_new_tokens: int,
    batch_size: int,
    choices: Sequence[str] = (),
    response: str | None = None,
    protocol: Protocol = CLEAN,
    autocast_dtype: torch.dtype | None = None,
    ledger: Ledger = NEW,
) -> tuple[Score, list[Prediction]]:
    """Let ``model`` write an answer to every row and score the answers.

    Args:
        model: A causal language model, plain or with an adapter.
        tokenizer: Its tokenizer.
        rows: The test rows.
        extraction: ``number``, ``choice`` or ``exact``.
        max_new_tokens: The most tokens of an answer.
        batch_size: Rows per forward pass; it changes the speed, not the answers.
        choices: The options of a ``choice``.
        response: The sentence that answers are given in, ``{answer}`` standing for the option; an
            answer in these words is proven in one pass instead of being decoded.
        protocol: How rows are asked, decoded and judged.
        autocast_dtype: Compute under autocast in this number format.
        ledger: What is answered already, who hears of the rest, and who shares the rows.

    Returns:
        The score, and the predictions in the order of the rows.

    Raises:
        UserError: a row that cannot be scored or does not fit into the model; see `check_task`.
    """
    max_new_tokens = protocol.max_new_tokens or max_new_tokens
    texts = [question_text(tokenizer, row, protocol.ask) for row in rows]
    prompts = check_task(
        model,
        tokenizer,
        rows,
        texts,
        extraction=extraction,
        max_new_tokens=max_new_tokens,
        choices=choices,
    )

    common = common_start(prompts)

    def ask(asked: list[int]) -> Iterator[Answer]:
        left = dict.fromkeys(range(len(asked)))
        if response is not None and choices and protocol.chooses:
            for place, text in prove_answers(
                model,
                tokenizer,
                [prompts[index] for index in asked],
                fill(response, choices),
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                common=common,
                autocast_dtype=autocast_dtype,
            ):
                del left[place]
                yield place, text, None
        places = list(left)
        for place, text in generate(
            model,
            tokenizer,
            [prompts[asked[place]] for place in places],
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            num_beams=protocol.num_beams,
            by_length=protocol.by_length,
            autocast_dtype=autocast_dtype,
        ):
            yield places[place], text, None

    def judge(index: int, output: str, _scores: Scores | None) -> Prediction:
        label = row_label(rows[index], extraction)
        answer = protocol.extract(output, extraction, choices)
        correct = protocol.judge(answer, label, extraction)
        return Prediction(rows[index].id, texts[index], output, answer, label, correct)

    return tally(
        [row.id for row in rows],
        texts,
        ledger,
        order=by_length(prompts) if protocol.by_length else range(len(prompts)),
        batch_size=batch_size,
        ask=ask,
        judge=judge,
    )


def evaluate_choices(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    choices: Sequence[str],
    response: str,
    batch_size: int,
    per_token: bool = False,
    autocast_dtype: torch.dtype | None = None,
    ledger: Ledger = NEW,
) -> tuple[Score, list[Prediction]]:
    """Let ``model`` choose the most probable of ``choices`` for every row.

    Args:
        model: A causal language model, plain or with an adapter.
        tokenizer: Its tokenizer.
        rows: The test rows.
        choices: What there is to choose from.
        response: The sentence that answers are given in, ``{answer}`` standing for the option.
        batch_size: Rows per forward pass; it changes the speed, not the answers.
        per_token: Whether an option's log-likelihood is divided by its number of tokens.
        autocast_dtype: Compute under autocast in this number format.
        ledger: What is answered already, who hears of the rest, and who shares the rows.

    Returns:
        The score, and the predictions in the order of the rows; a prediction's ``scores`` are the
        log-likelihoods of the whole responses.

    Raises:
        UserError: a row that cannot be scored or does not fit into the model; see `check_task`.
    """
    texts = [question_text(tokenizer, row, CLEAN.ask) for row in rows]
    responses = fill(response, choices)
    lengths = dict(zip(choices, encode_choices(tokenizer, responses).lengths, strict=True))
    sentences = dict(zip(choices, responses, strict=True))
    prompts = check_task(
        model,
        tokenizer,
        rows,
        texts,
        extraction="choice",
        max_new_tokens=max(lengths.values()),
        choices=choices,
    )

    common = common_start(prompts)

    def best(scores: Scores) -> str:
        return max(choices, key=lambda c: scores[c] / (lengths[c] if per_token else 1))

    def ask(asked: list[int]) -> Iterator[Answer]:
        for place, likelihoods in choose(
            model,
            tokenizer,
            [prompts[index] for index in asked],
            responses,
            batch_size=batch_size,
            common=common,
            autocast_dtype=autocast_dtype,
        ):
            scores = {c: round(value, 6) for c, value in zip(choices, likelihoods, strict=True)}
            yield place, sentences[best(scores)], scores

    def judge(index: int, _output: str, scores: Scores | None) -> Prediction:
        assert scores is not None  # what was taken over was chosen too: see the fingerprint
        label, answer = rows[index].answer, best(scores)
        correct = same_choice(answer, label)
        return Prediction(
            rows[index].id, texts[index], sentences[answer], answer, label, correct, scores
        )

    return tally(
        [row.id for row in rows],
        texts,
        ledger,
        order=by_length(prompts),
        batch_size=batch_size,
        ask=ask,
        judge=judge,
    )


def fill(response: str, choices: Sequence[str]) -> list[str]:
    """The response with each choice in the place of ``{answer}``."""
    return [response.replace("{answer}", choice) for choice in choices]


def check_task(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    texts: Sequence[str],
    *,
    extraction: str,
    max_new_tokens: int,
    choices: Sequence[str] = (),
) -> list[list[int]]:
    """Refuse, before any answer, rows that could not be evaluated; return the prompts' ids.

    Raises:
        UserError: there are no rows, two share an id, one has no answer or one that the extraction
            can never find, or a prompt and its answer exceed the model's positions.
    """
    if not rows:
        raise UserError("a task without rows has no score; check its source and evaluation.limit")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(
                f"{row.where}: another row has the id '{row.id}' too; give each row its own"
            )
        seen.add(row.id)
        _check_label(row.where, row_label(row, extraction), extraction, choices)
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    prompts = []
    for row, text in zip(rows, texts, strict=True):
        ids = question_ids(tokenizer, row, text)
        if positions is not None and len(ids) + max_new_tokens > positions:
            raise UserError(
                f"{row.where}: its prompt of {len(ids)} tokens and an answer of up to "
                f"{max_new_tokens} exceed the model's {positions} positions; shorten or remove the "
                "row, or lower the task's max_new_tokens"
            )
        prompts.append(ids)
    return prompts


def _check_label(name: str, label: str, extraction: str, choices: Sequence[str]) -> None:
    if not label.strip():
        raise UserError(f"{name}: no 'answer' to score against; add one to the row")
    if extraction == "number" and parse_number(label) is None:
        raise UserError(
            f"{name}: its answer {label!r} is not one number; correct it, or score the task with "
            "extraction: exact"
        )
    if extraction == "choice" and choices and not any(same_choice(label, c) for c in choices):
        raise UserError(
            f"{name}: its answer {label!r} is none of the task's choices {', '.join(choices)}"
        )
