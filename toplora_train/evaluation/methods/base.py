"""The interface of evaluation methods.

A method is a module of this package, selected by its name: ``kind: NAME`` in a task, or
``evaluation.multiple_choice=NAME``. The module's ``METHOD`` is an instance of :class:`Method`: it
prepares, validates, answers and scores the rows, and names the settings its scores depend on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import EXTRACTIONS, METRICS
from toplora_train.config.plugins import plugin_digests
from toplora_train.data.chat import answer_frame, question_text
from toplora_train.data.rows import RowSet
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.forward import by_length
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.run_evaluation import (
    FRESH,
    Answer,
    EvalProgress,
    Score,
    Scores,
    run_evaluation,
)
from toplora_train.evaluation.validate import validate_prompts


@dataclass(frozen=True)
class EvalContext:
    """How an evaluation runs; it changes no answer beyond rounding.

    Attributes:
        batch_size: Rows per forward pass.
        autocast_dtype: Compute under autocast to this dtype; None: no autocast.
        progress: Predictions to reuse, progress callbacks, and the process's rank.
    """

    batch_size: int
    autocast_dtype: torch.dtype | None = None
    progress: EvalProgress = FRESH


class Method(ABC):
    """One way for a model to answer the rows of a task.

    Attributes:
        title: Its name in reports.
        form: How multiple-choice answers are trained and given.
    """

    title: ClassVar[str]
    form: ClassVar[str] = "by their labels"

    def prepare(self, rows: RowSet) -> RowSet:
        """The rows in the form used for training and evaluation.

        Raises:
            UserError: a row cannot take that form.
        """
        return rows

    def validate(self, eval_set: EvalSet) -> None:  # noqa: B027  (nothing to refuse is common)
        """Refuse a task that this method cannot evaluate, before anything is loaded.

        Raises:
            UserError: names the task and what to change.
        """

    @abstractmethod
    def identity(self, eval_set: EvalSet) -> Mapping[str, Any]:
        """The settings that answers and scores depend on, besides the rows; for the hash."""

    @abstractmethod
    def validate_rows(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet
    ) -> None:
        """Refuse rows that cannot be answered or scored; ``model`` needs no weights.

        Raises:
            UserError: names the row.
        """

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        eval_set: EvalSet,
        context: EvalContext,
    ) -> tuple[Score, list[Prediction]]:
        """Answer every row and score the answers.

        Args:
            model: With or without an adapter, on any device.
            tokenizer: Its tokenizer.
            eval_set: The rows and how they are scored.
            context: How the evaluation runs.

        Returns:
            The score, and the predictions in the order of the rows.

        Raises:
            UserError: as :meth:`validate_rows`.
        """


def find_method(name: str) -> Method:
    """The method of this name; see :func:`toplora_train.config.methods.method_names`."""
    method: Method = import_module(f"{__package__}.{name}").METHOD
    return method


def protocol_of(eval_set: EvalSet) -> dict[str, Any]:
    """The settings that answers and scores depend on, besides the rows."""
    settings = dict(find_method(eval_set.kind).identity(eval_set))
    if eval_set.prompt is not None:
        settings["prompt"] = eval_set.prompt
    names = {eval_set.extraction, eval_set.metric, *eval_set.also}
    if not names <= {*EXTRACTIONS, *METRICS}:  # code that the names alone do not determine
        settings["modules"] = plugin_digests("task") | plugin_digests("dataset")
    if eval_set.special_tokens != "keep":
        settings["special_tokens"] = eval_set.special_tokens
    return settings


def prompt_identity(eval_set: EvalSet, **more: Any) -> dict[str, Any]:
    """The :meth:`Method.identity` of a method that asks a language model, and its own settings."""
    return {
        "kind": eval_set.kind,
        "extraction": eval_set.extraction,
        "choices": list(eval_set.choices),
        "version": eval_set.version,
        **more,
    }


def encoded_prompts(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet, **limits: Any
) -> tuple[list[str], list[list[int]]]:
    """The rows' prompts as text and as token ids.

    Raises:
        UserError: See :func:`toplora_train.evaluation.validate.validate_prompts`, which gets the
            ``limits``.
    """
    rows = eval_set.rows.rows
    texts = [question_text(tokenizer, row, eval_set.protocol.build_prompt) for row in rows]
    return texts, validate_prompts(model, tokenizer, rows, texts, **limits)


def frame_of(tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet) -> tuple[str, str]:
    """See :func:`toplora_train.data.chat.answer_frame`; a template writes the same for all rows."""
    rows = eval_set.rows.rows
    return answer_frame(tokenizer, rows[0]) if len(rows) else ("", "")


def framed(
    tokenizer: PreTrainedTokenizerBase,
    eval_set: EvalSet,
    texts: Sequence[str],
    ids: Sequence[list[int]],
) -> tuple[list[str], list[list[int]]]:
    """Prompts with what the chat template writes before an answer, so that options follow it."""
    before, _ = frame_of(tokenizer, eval_set)
    start = tokenizer(before, add_special_tokens=False)["input_ids"]
    return [text + before for text in texts], [[*one, *start] for one in ids]


def run_prompts(
    eval_set: EvalSet,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    context: EvalContext,
    *,
    answer: Callable[[list[int]], Iterator[Answer]],
    score: Callable[[int, str, Scores | None], Prediction],
) -> tuple[Score, list[Prediction]]:
    """Answer the prompts, the longest first where the protocol says so, and score the answers."""
    return run_evaluation(
        {row.id: text for row, text in zip(eval_set.rows.rows, texts, strict=True)},
        context.progress,
        order=by_length(ids) if eval_set.protocol.by_length else range(len(ids)),
        lengths=[len(one) for one in ids],
        batch_size=context.batch_size,
        answer=answer,
        score=score,
    )


def validate_protocol(eval_set: EvalSet) -> None:
    """Refuse a protocol that only generates answers, for a method that ranks options.

    Raises:
        UserError: names the protocol and the task.
    """
    if not eval_set.protocol.chooses:
        generated = eval_set.choices and eval_set.response
        raise UserError(
            f"evaluation.protocol={eval_set.protocol.name} generates its answers, but task."
            f"{eval_set.name} ranks options; use protocol=clean"
            + (" or multiple_choice=generate" if generated else "")
        )
