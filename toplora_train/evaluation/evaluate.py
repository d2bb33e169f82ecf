"""One task: prompts, greedy answers, extraction, and a score with its uncertainty."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.data.encode import encode_prompt
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row
from toplora_train.evaluation.answers import extract_answer, is_correct, same_choice
from toplora_train.evaluation.generate import generate
from toplora_train.evaluation.numbers import parse_number
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.statistics import majority_share, wilson_interval

__all__ = ["Prediction", "Score", "check_task", "evaluate_task", "majority_share", "row_label"]


@dataclass(frozen=True)
class Score:
    """A task's score.

    Attributes:
        metric: What ``value`` is, ``accuracy``.
        value: The share of rows answered rightly.
        n: The number of rows.
        ci95: The 95 % (Wilson) interval of ``value``.
        seconds: Wall-clock time of the rows generated now (rows taken over cost none).
    """

    metric: str
    value: float
    n: int
    ci95: tuple[float, float]
    seconds: float


def evaluate_task(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    extraction: str,
    max_new_tokens: int,
    batch_size: int,
    choices: Sequence[str] = (),
    finished: Mapping[str, Prediction] | None = None,
    on_prediction: Callable[[Prediction], None] | None = None,
    on_progress: Callable[[int, int, int], None] | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> tuple[Score, list[Prediction]]:
    """Let ``model`` answer every row and score the answers.

    Args:
        model: A causal language model, plain or with an adapter.
        tokenizer: Its tokenizer.
        rows: The test rows.
        extraction: ``number``, ``choice`` or ``exact``.
        max_new_tokens: The most tokens of an answer.
        batch_size: Rows per forward pass; it changes the speed, not the answers.
        choices: The options of a ``choice``.
        finished: Predictions of an earlier, interrupted evaluation of the same model, by row id;
            those with the row's very prompt are taken over, their outputs scored anew.
        on_prediction: Is given each new prediction as it comes, not in the order of the rows.
        on_progress: Is given (rows done, rows in all, rows right) after each row.
        autocast_dtype: Compute under autocast in this number format.

    Returns:
        The score, and the predictions in the order of the rows.

    Raises:
        UserError: a row that cannot be scored or does not fit into the model; see `check_task`.
    """
    prompts = check_task(
        model,
        tokenizer,
        rows,
        extraction=extraction,
        max_new_tokens=max_new_tokens,
        choices=choices,
    )
    started = time.perf_counter()
    texts = [build_prompt(row.instruction, row.input) for row in rows]

    def judge(index: int, output: str) -> Prediction:
        label = row_label(rows[index], extraction)
        answer = extract_answer(output, extraction, choices)
        correct = is_correct(answer, label, extraction)
        return Prediction(rows[index].id, texts[index], output, answer, label, correct)

    taken = finished or {}
    done = {
        index: judge(index, taken[row.id].output)
        for index, row in enumerate(rows)
        if row.id in taken and taken[row.id].prompt == texts[index]
    }
    right = sum(prediction.correct for prediction in done.values())
    if done and on_progress is not None:
        on_progress(len(done), len(rows), right)
    open_rows = [index for index in range(len(rows)) if index not in done]
    answers = generate(
        model,
        tokenizer,
        [prompts[index] for index in open_rows],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        autocast_dtype=autocast_dtype,
    )
    for place, output in answers:
        prediction = done[open_rows[place]] = judge(open_rows[place], output)
        right += prediction.correct
        if on_prediction is not None:
            on_prediction(prediction)
        if on_progress is not None:
            on_progress(len(done), len(rows), right)
    score = Score(
        metric="accuracy",
        value=right / len(rows),
        n=len(rows),
        ci95=wilson_interval(right, len(rows)),
        seconds=time.perf_counter() - started,
    )
    return score, [done[index] for index in range(len(rows))]


def check_task(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    extraction: str,
    max_new_tokens: int,
    choices: Sequence[str] = (),
) -> list[list[int]]:
    """Refuse, before any generation, rows that could not be evaluated; return the prompts' ids.

    Raises:
        UserError: there are no rows, two share an id, one has no answer or one that the extraction
            can never find, or a prompt and its answer exceed the model's positions.
    """
    if not rows:
        raise UserError("a task without rows has no score; check its source and evaluation.limit")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(f"row {row.id}: another row has the same id; give each row its own")
        seen.add(row.id)
        _check_label(row.id, row_label(row, extraction), extraction, choices)
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    prompts = []
    for row in rows:
        ids = encode_prompt(tokenizer, build_prompt(row.instruction, row.input))
        if positions is not None and len(ids) + max_new_tokens > positions:
            raise UserError(
                f"row {row.id}: its prompt of {len(ids)} tokens and an answer of up to "
                f"{max_new_tokens} exceed the model's {positions} positions; shorten or remove the "
                "row, or lower the task's max_new_tokens"
            )
        prompts.append(ids)
    return prompts


def row_label(row: Row, extraction: str) -> str:
    """Return what the row's answer is held against: ``answer``; for ``exact``, else ``output``."""
    return row.answer or (row.output if extraction == "exact" else "")


def _check_label(name: str, label: str, extraction: str, choices: Sequence[str]) -> None:
    if not label.strip():
        raise UserError(f"row {name}: no 'answer' to score against; add one to the row")
    if extraction == "number" and parse_number(label) is None:
        raise UserError(
            f"row {name}: its answer {label!r} is not one number; mend it, or score the task with "
            "extraction: exact"
        )
    if extraction == "choice" and choices and not any(same_choice(label, c) for c in choices):
        raise UserError(
            f"row {name}: its answer {label!r} is none of the task's choices {', '.join(choices)}"
        )
