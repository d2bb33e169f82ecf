"""The rows of a task answered one by one, as batches come, and the score of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.ranks import ALONE, Ranks
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


@dataclass(frozen=True)
class Progress:
    """How far a task is, as one process sees it.

    Attributes:
        done: Rows answered, those taken over included.
        total: Rows in all; of several processes each counts its own and those taken over.
        measure: The mean of what the rows done are measured by, so far: the share answered rightly,
            or of numbers the mean error.
        tokens: Prompt tokens of the row answered now; 0 where rows were only taken over.
        tokens_left: Prompt tokens of the rows that are not answered.
    """

    done: int
    total: int
    measure: float
    tokens: int
    tokens_left: int


@dataclass(frozen=True)
class EvalProgress:
    """What is known of a task before it is asked, who hears of the answers, and who asks.

    Attributes:
        finished: Predictions of an earlier, interrupted evaluation of the same model, by row id;
            those with the row's very prompt are taken over, their outputs judged anew. All
            processes know the same.
        on_prediction: Is given each new prediction of this process as it comes.
        on_progress: Is told after each row how far the task is.
        ranks: This process among those that share the rows.
    """

    finished: Mapping[str, Prediction] = field(default_factory=dict)
    on_prediction: Callable[[Prediction], None] = lambda _prediction: None
    on_progress: Callable[[Progress], None] = lambda _progress: None
    ranks: Ranks = ALONE


FRESH = EvalProgress()
"""Nothing is answered yet, nobody else listens or answers."""


def run_evaluation(
    names: Sequence[str],
    texts: Sequence[str],
    progress: EvalProgress,
    *,
    order: Sequence[int],
    lengths: Sequence[int],
    batch_size: int,
    ask: Callable[[list[int]], Iterable[Answer]],
    judge: Callable[[int, str, Scores | None], Prediction],
    measure: Callable[[Prediction], float] = lambda prediction: float(prediction.correct),
) -> tuple[Score, list[Prediction]]:
    """Ask every row that is not finished, judge every answer, and count.

    Args:
        names: The rows' ids, each its own.
        texts: The rows' prompts.
        progress: What is finished already, and who hears of the rest.
        order: All rows, by index, in the order in which they are asked.
        lengths: The rows' prompts in tokens.
        batch_size: Rows asked at once; several processes are dealt whole batches.
        ask: Given the rows to ask, by index and in their order, gives their answers in any order;
            an answer's place counts within the rows asked.
        judge: Makes a row's prediction from its answer.
        measure: What a prediction adds to the mean that is shown meanwhile.

    Returns:
        The score, and the predictions in the order of the rows, those of all processes.
    """
    started = time.perf_counter()
    taken = progress.finished
    done = {
        index: judge(index, taken[name].output, taken[name].scores)
        for index, name in enumerate(names)
        if name in taken and taken[name].prompt == texts[index]
    }
    asked = progress.ranks.share([index for index in order if index not in done], batch_size)
    total, measured = len(done) + len(asked), sum(map(measure, done.values()))
    tokens_left = sum(lengths[index] for index in asked)
    if done:
        progress.on_progress(Progress(len(done), total, measured / len(done), 0, tokens_left))
    mine: list[tuple[int, Prediction]] = []
    for place, output, scores in ask(asked) if asked else ():
        prediction = judge(asked[place], output, scores)
        mine.append((asked[place], prediction))
        measured += measure(prediction)
        tokens = lengths[asked[place]]
        tokens_left -= tokens
        progress.on_prediction(prediction)
        answered = len(done) + len(mine)
        progress.on_progress(Progress(answered, total, measured / answered, tokens, tokens_left))
    done.update(progress.ranks.gather(mine))
    predictions = [done[index] for index in range(len(names))]
    return count(predictions, seconds=time.perf_counter() - started), predictions


def count(predictions: Sequence[Prediction], *, seconds: float = 0.0) -> Score:
    """The accuracy of predictions, of which there is at least one."""
    right, n = sum(prediction.correct for prediction in predictions), len(predictions)
    return Score("accuracy", right / n, n, wilson_interval(right, n), seconds)
