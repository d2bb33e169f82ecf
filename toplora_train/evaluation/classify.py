"""Ask a model's head: the class of every text, or the number that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from toplora_train.data.labelled import LabelledExample, collate_labelled, encode_labelled
from toplora_train.data.rows import Row
from toplora_train.evaluation.forward import by_length, longest_first
from toplora_train.evaluation.metrics import as_numbers, measure
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.tally import NEW, Answer, Ledger, Score, Scores, tally

NEAR = 0.5
"""How far off a predicted number may be to be shown among the right examples; no metric uses it."""


def evaluate_labels(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    choices: Sequence[str],
    metric: str,
    also: Sequence[str] = (),
    max_length: int,
    overflow: str,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
    ledger: Ledger = NEW,
) -> tuple[Score, list[Prediction]]:
    """Let the model's head judge every row, and score what it says.

    Args:
        model: A model with a head, plain or with an adapter.
        tokenizer: Its tokenizer.
        rows: The test rows.
        choices: The classes' names in the order of the head's outputs; none for numbers.
        metric: The metric that the score is of.
        also: Further metrics, for ``Score.more``.
        max_length: The longest row, in tokens.
        overflow: ``truncate`` cuts longer rows; else they are an error. No test row is left out.
        batch_size: Rows per forward pass; it changes the speed, not the answers.
        autocast_dtype: Compute under autocast in this number format.
        ledger: What is answered already, who hears of the rest, and who shares the rows.

    Returns:
        The score, and the predictions in the order of the rows.

    Raises:
        UserError: A row does not fit into the model.
    """
    examples = encode_labelled(
        tokenizer,
        rows,
        choices=choices,
        max_length=max_length,
        overflow="truncate" if overflow == "truncate" else "error",
    ).examples

    def ask(asked: list[int]) -> Iterator[Answer]:
        outputs = head_outputs(
            model,
            [examples[index] for index in asked],
            pad_token_id=tokenizer.pad_token_id,
            batch_size=batch_size,
            autocast_dtype=autocast_dtype,
        )
        for place, output in outputs:
            yield place, *read_output(output, choices)

    def judge(index: int, output: str, scores: Scores | None) -> Prediction:
        row = rows[index]
        right = output == row.answer if choices else abs(float(output) - float(row.answer)) <= NEAR
        return Prediction(row.id, shown(row), output, output, row.answer, right, scores)

    def measure(prediction: Prediction) -> float:
        if choices:
            return float(prediction.correct)
        return abs(float(prediction.output) - float(prediction.label))

    counted, predictions = tally(
        [row.id for row in rows],
        [shown(row) for row in rows],
        ledger,
        order=by_length([example.input_ids for example in examples]),
        lengths=[len(example.input_ids) for example in examples],
        batch_size=batch_size,
        ask=ask,
        judge=judge,
        measure=measure,
    )
    score = score_labels(
        predictions, choices=choices, metric=metric, also=also, seconds=counted.seconds
    )
    return score, predictions


def read_output(output: Tensor, choices: Sequence[str]) -> tuple[str, Scores | None]:
    """What the head's outputs for a row say, and the classes' probabilities behind it."""
    if not choices:
        return f"{float(output[0]):.7g}", None
    shares = output.double().softmax(0).tolist()
    scores = {name: round(share, 6) for name, share in zip(choices, shares, strict=True)}
    return choices[int(output.argmax())], scores


def score_labels(
    predictions: Sequence[Prediction],
    *,
    choices: Sequence[str],
    metric: str,
    also: Sequence[str] = (),
    seconds: float = 0.0,
) -> Score:
    """Score predictions as they are stored, without a model.

    Args:
        predictions: A head's predictions.
        choices: The classes' names in the order of their numbers; none for numbers.
        metric: The metric that the score is of.
        also: Further metrics, for ``Score.more``.
        seconds: What ``Score.seconds`` shall say.
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
    """A row's text, or its two texts on two lines."""
    return f"{row.instruction}\n{row.input}" if row.input else row.instruction


@torch.inference_mode()
def head_outputs(
    model: nn.Module,
    examples: Sequence[LabelledExample],
    *,
    pad_token_id: int,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Each example's index and the head's outputs for it, in fp32 on the CPU; longest first."""
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
