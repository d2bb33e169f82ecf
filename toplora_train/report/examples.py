"""Sample predictions of a task for the report."""

from __future__ import annotations

from collections.abc import Sequence

from toplora_train.evaluation.predictions import Prediction


def pick_examples(
    predictions: Sequence[Prediction], count: int = 10
) -> tuple[list[Prediction], list[Prediction]]:
    """Return up to ``count`` correct and ``count`` wrong predictions, evenly spaced over the task.

    Deterministic, so there is no cherry-picking.
    """
    right = [prediction for prediction in predictions if prediction.correct]
    wrong = [prediction for prediction in predictions if not prediction.correct]
    return _spread(right, count), _spread(wrong, count)


def _spread(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    if len(predictions) <= count:
        return list(predictions)
    return [predictions[place * len(predictions) // count] for place in range(count)]
