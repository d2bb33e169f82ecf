"""Which classes a classifier confuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from toplora_train.evaluation.predictions import Prediction


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
