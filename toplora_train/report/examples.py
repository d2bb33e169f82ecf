"""Sample predictions of a task for the report, and which classes are confused."""

from __future__ import annotations

from collections import Counter
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


def confusion(
    predictions: Sequence[Prediction], most: int = 20
) -> tuple[list[str], list[list[int]]] | None:
    """The classes, and how often each (row) was predicted as each (column); shape (k, k).

    None without class probabilities (no classifier), or for more than ``most`` classes.
    """
    scores = predictions[0].scores if predictions else None
    if scores is None or len(scores) > most:
        return None
    counts = Counter((one.label, one.prediction) for one in predictions)
    classes = list(scores)
    return classes, [[counts[label, predicted] for predicted in classes] for label in classes]


def _spread(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    if len(predictions) <= count:
        return list(predictions)
    return [predictions[place * len(predictions) // count] for place in range(count)]
