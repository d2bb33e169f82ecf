"""Classification of a text, a pair of texts or an image by a head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from toplora_train.data.labelled import LabelledExample, collate_labelled, encode_labelled
from toplora_train.data.overflow import Encoded
from toplora_train.data.pixels import ImageExample
from toplora_train.data.rows import Row
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.forward import by_length, longest_first
from toplora_train.evaluation.methods.base import EvalContext, Method
from toplora_train.evaluation.metrics import as_numbers, measure, validate_metric
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.run_evaluation import (
    Answer,
    Score,
    Scores,
    run_evaluation,
    validate_finite,
)

NEAR = 0.5
"""The largest error at which reports show a regression as correct; no metric uses it."""


class Classify(Method):
    """Feeds the texts without a prompt; a prediction's ``scores`` are class probabilities.

    Without ``choices`` the head has one output, a number: see :mod:`.regress`.
    """

    title = "classified"

    def identity(self, eval_set: EvalSet) -> dict[str, Any]:
        """The classes, the metric, and how long rows are handled."""
        return {
            "kind": eval_set.kind,
            "choices": list(eval_set.choices),
            "version": eval_set.version,
            "metric": eval_set.metric,
            "max_length": eval_set.max_length,
            "overflow": eval_set.overflow,
        }

    def validate_rows(
        self,
        model: nn.Module,  # noqa: ARG002  (the tokenizer suffices)
        tokenizer: PreTrainedTokenizerBase,
        eval_set: EvalSet,
    ) -> None:
        """Refuse rows that are too long, and a metric of one's own that is no score."""
        _encode(tokenizer, eval_set)
        labels = as_numbers([row.answer for row in eval_set.rows.rows], eval_set.choices)
        for name in (eval_set.metric, *eval_set.also):
            validate_metric(name, labels)

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        eval_set: EvalSet,
        context: EvalContext,
    ) -> tuple[Score, list[Prediction]]:
        """Compute the head's outputs for every row, and the metrics."""
        rows, choices = eval_set.rows.rows, eval_set.choices
        examples = _encode(tokenizer, eval_set).examples

        def answer(pending: list[int]) -> Iterator[Answer]:
            outputs = head_outputs(
                model,
                [examples[index] for index in pending],
                pad_token_id=tokenizer.pad_token_id,
                batch_size=context.batch_size,
                autocast_dtype=context.autocast_dtype,
            )
            for place, output in outputs:
                validate_finite(output.tolist(), rows[pending[place]].id)
                yield Answer(place, *read_output(output, choices))

        def score_row(index: int, output: str, scores: Scores | None) -> Prediction:
            row = rows[index]
            right = (
                output == row.answer if choices else abs(float(output) - float(row.answer)) <= NEAR
            )
            return Prediction(row.id, shown(row), output, output, row.answer, right, scores)

        def measure(prediction: Prediction) -> float:
            if choices:
                return float(prediction.correct)
            return abs(float(prediction.output) - float(prediction.label))

        counted, predictions = run_evaluation(
            {row.id: shown(row) for row in rows},
            context.progress,
            order=by_length([example.input_ids for example in examples]),
            lengths=[len(example.input_ids) for example in examples],
            batch_size=context.batch_size,
            answer=answer,
            score=score_row,
            measure=measure,
        )
        score = score_labels(
            predictions,
            choices=choices,
            metric=eval_set.metric,
            also=eval_set.also,
            seconds=counted.seconds,
        )
        return score, predictions


def _encode(
    tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet
) -> Encoded[LabelledExample] | Encoded[ImageExample]:
    return encode_labelled(
        tokenizer,
        eval_set.rows.rows,
        choices=eval_set.choices,
        max_length=eval_set.max_length,
        overflow="truncate" if eval_set.overflow == "truncate" else "error",
    )


def read_output(output: Tensor, choices: Sequence[str]) -> tuple[str, Scores | None]:
    """The predicted class with the class probabilities, or the predicted number."""
    if not choices:
        return f"{float(output[0]):.7g}", None
    probabilities = output.double().softmax(0).tolist()
    scores = {name: round(p, 6) for name, p in zip(choices, probabilities, strict=True)}
    return choices[int(output.argmax())], scores


def score_labels(
    predictions: Sequence[Prediction],
    *,
    choices: Sequence[str],
    metric: str,
    also: Sequence[str] = (),
    seconds: float = 0.0,
) -> Score:
    """Score stored predictions, without a model.

    Args:
        predictions: A head's predictions.
        choices: The class names in order of their indices; empty for regression.
        metric: The main metric.
        also: Additional metrics, for ``Score.more``.
        seconds: The value of ``Score.seconds``.
    """
    predicted = as_numbers([prediction.prediction or "" for prediction in predictions], choices)
    labels = as_numbers([prediction.label for prediction in predictions], choices)
    measured = measure(metric, predicted, labels)
    return Score(
        metric=metric,
        value=measured.value,
        n=len(predictions),
        ci95=measured.ci95,
        seconds=seconds,
        more={name: measure(name, predicted, labels) for name in also},
    )


def shown(row: Row) -> str:
    """A row's text, or its two texts on separate lines."""
    return f"{row.instruction}\n{row.input}" if row.input else row.instruction


@torch.inference_mode()
def head_outputs(
    model: nn.Module,
    examples: Sequence[LabelledExample | ImageExample],
    *,
    pad_token_id: int,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield each example's index and head outputs, fp32 on the CPU, longest examples first."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for chosen in longest_first([example.input_ids for example in examples], batch_size):
            batch = collate_labelled([examples[index] for index in chosen], pad_token_id)
            inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
            with torch.autocast(device.type, dtype=autocast_dtype, enabled=bool(autocast_dtype)):
                outputs = model(**inputs).logits.float().cpu()
            yield from zip(chosen, outputs, strict=True)
    finally:
        model.train(training)


METHOD = Classify()
