"""The rows of a task answered one by one, as batches come, and the score of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    from toplora_train.evaluation.metrics import Measured

Scores = Mapping[str, float]
"""What a model gave each answer that it could choose from."""
Answer = tuple[int, str, Scores | None]
"""A row's place among those asked, the text of its answer, and the scores behind it, if any."""


@dataclass(frozen=True)
class Score:
    """A task's score.

    Attributes:
        metric: What ``value`` is; where answers are written or chosen, ``accuracy``.
        value: The metric, for accuracy the share of rows answered rightly.
        n: The number of rows.
        ci95: The 95 % interval of ``value``, for accuracy Wilson's.
        seconds: Wall-clock time of the rows answered now (rows taken over cost none).
        more: Further metrics of the same answers, by name.
    """

    metric: str
    value: float
    n: int
    ci95: tuple[float, float]
    seconds: float
    more: Mapping[str, Measured] = field(default_factory=dict)


def tally(
    names: Sequence[str],
    texts: Sequence[str],
    *,
    ask: Callable[[list[int]], Iterable[Answer]],
    judge: Callable[[int, str, Scores | None], Prediction],
    finished: Mapping[str, Prediction] | None = None,
    on_prediction: Callable[[Prediction], None] | None = None,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> tuple[Score, list[Prediction]]:
    """Ask every row that is not finished, judge every answer, and count.

    Args:
        names: The rows' ids, each its own.
        texts: The rows' prompts.
        ask: Given the rows to ask, by index, gives their answers in any order; an answer's place
            counts within the rows asked.
        judge: Makes a row's prediction from its answer.
        finished: Predictions of an earlier, interrupted evaluation of the same model, by row id;
            those with the row's very prompt are taken over, their outputs judged anew.
        on_prediction: Is given each new prediction as it comes.
        on_progress: Is given (rows done, rows in all, rows right) after each row.

    Returns:
        The score, and the predictions in the order of the rows.
    """
    started = time.perf_counter()
    taken = finished or {}
    done = {
        index: judge(index, taken[name].output, taken[name].scores)
        for index, name in enumerate(names)
        if name in taken and taken[name].prompt == texts[index]
    }
    right = sum(prediction.correct for prediction in done.values())
    if done and on_progress is not None:
        on_progress(len(done), len(names), right)
    asked = [index for index in range(len(names)) if index not in done]
    for place, output, scores in ask(asked) if asked else ():
        prediction = done[asked[place]] = judge(asked[place], output, scores)
        right += prediction.correct
        if on_prediction is not None:
            on_prediction(prediction)
        if on_progress is not None:
            on_progress(len(done), len(names), right)
    predictions = [done[index] for index in range(len(names))]
    return count(predictions, seconds=time.perf_counter() - started), predictions


def count(predictions: Sequence[Prediction], *, seconds: float = 0.0) -> Score:
    """The accuracy of predictions, of which there is at least one."""
    right, n = sum(prediction.correct for prediction in predictions), len(predictions)
    return Score("accuracy", right / n, n, wilson_interval(right, n), seconds)
