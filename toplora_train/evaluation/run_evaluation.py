"""Answer a task's rows, report progress as answers end, and score them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.ranks import ALONE, Ranks
from toplora_train.evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    from toplora_train.evaluation.metrics import Measured

Scores = Mapping[str, float]
"""The score of each option."""


class Answer(NamedTuple):
    """An answer to a row.

    Attributes:
        place: The row's place among those to answer.
        output: The output text.
        scores: The options' scores, if the model chose among options.
        cut_off: Whether the text was generated up to ``max_new_tokens`` without an end.
    """

    place: int
    output: str
    scores: Scores | None = None
    cut_off: bool = False


@dataclass(frozen=True)
class Score:
    """A task's score.

    Attributes:
        metric: The metric's name; ``accuracy`` where answers are generated or chosen.
        value: The metric's value.
        n: The number of rows.
        ci95: The 95 % interval of ``value``; for accuracy Wilson's.
        seconds: Wall-clock time of the rows answered now, not of reused ones.
        more: Additional metrics of the same answers, by name.
        cut_off: The number of answers that were generated up to ``max_new_tokens``.
    """

    metric: str
    value: float
    n: int
    ci95: tuple[float, float]
    seconds: float
    more: Mapping[str, Measured] = field(default_factory=dict)
    cut_off: int = 0


@dataclass(frozen=True)
class Progress:
    """A task's progress, as one process sees it.

    Attributes:
        done: Rows answered, including reused predictions.
        total: This process's rows and the reused predictions.
        measure: The mean over the rows done: accuracy or, for regression, mean absolute error.
        tokens: Prompt tokens of the row just answered; 0 for reused predictions.
        tokens_left: Prompt tokens of the rows not yet answered.
    """

    done: int
    total: int
    measure: float
    tokens: int
    tokens_left: int


@dataclass(frozen=True)
class EvalProgress:
    """Predictions to reuse, progress callbacks, and the process's rank.

    Attributes:
        finished: Predictions of an interrupted evaluation of the same model, by row id; those with
            an identical prompt are reused, their outputs scored again. The same on all processes.
        on_prediction: Called with each new prediction of this process.
        on_progress: Called after each row.
        ranks: This process's rank.
        in_step: The rows are answered inside this context, which may wait for other processes.
    """

    finished: Mapping[str, Prediction] = field(default_factory=dict)
    on_prediction: Callable[[Prediction], None] = lambda _prediction: None
    on_progress: Callable[[Progress], None] = lambda _progress: None
    ranks: Ranks = ALONE
    in_step: AbstractContextManager[None] = field(default_factory=nullcontext)


FRESH = EvalProgress()
"""Nothing to reuse, no callbacks, a single process."""


def run_evaluation(
    prompts: Mapping[str, str],
    progress: EvalProgress,
    *,
    order: Sequence[int],
    lengths: Sequence[int],
    batch_size: int,
    answer: Callable[[list[int]], Iterable[Answer]],
    score: Callable[[int, str, Scores | None], Prediction],
    measure: Callable[[Prediction], float] = lambda prediction: float(prediction.correct),
) -> tuple[Score, list[Prediction]]:
    """Answer every row without a reusable prediction, and score all answers.

    Args:
        prompts: The rows' prompts by row id, in the order of the rows.
        progress: Predictions to reuse, and callbacks.
        order: The indices of all rows, in the order to answer them.
        lengths: Tokens of the rows' prompts.
        batch_size: Rows per batch; processes are assigned whole batches.
        answer: Answers the rows of the given indices, in any order.
        score: Makes a row's prediction from ``(index, output, scores)``.
        measure: A prediction's contribution to the running mean that is shown.

    Returns:
        The score and the predictions of all processes, in the order of the rows.

    Raises:
        UserError: A row's scores are NaN.
    """
    started = time.perf_counter()
    reused = progress.finished

    def scored(index: int, output: str, scores: Scores | None, cut_off: bool) -> Prediction:
        return replace(score(index, output, scores), cut_off=cut_off)

    names = list(prompts)
    done = {
        index: scored(index, reused[name].output, reused[name].scores, reused[name].cut_off)
        for index, (name, prompt) in enumerate(prompts.items())
        if name in reused and reused[name].prompt == prompt
    }
    pending = progress.ranks.share([index for index in order if index not in done], batch_size)
    total, measured = len(done) + len(pending), sum(map(measure, done.values()))
    tokens_left = sum(lengths[index] for index in pending)
    if done:
        progress.on_progress(Progress(len(done), total, measured / len(done), 0, tokens_left))
    new: list[tuple[int, Prediction]] = []
    with progress.in_step:
        for place, output, scores, cut_off in answer(pending) if pending else ():
            if scores is not None:
                validate_finite(scores.values(), names[pending[place]])
            prediction = scored(pending[place], output, scores, cut_off)
            new.append((pending[place], prediction))
            measured += measure(prediction)
            tokens = lengths[pending[place]]
            tokens_left -= tokens
            progress.on_prediction(prediction)
            answered = len(done) + len(new)
            seen = Progress(answered, total, measured / answered, tokens, tokens_left)
            progress.on_progress(seen)
    done.update(progress.ranks.gather(new))
    predictions = [done[index] for index in range(len(prompts))]
    return count(predictions, seconds=time.perf_counter() - started), predictions


def validate_finite(outputs: Iterable[float], row: str) -> None:
    """Refuse NaN, of which the first option, or any number, would be taken for the answer.

    Raises:
        UserError: An output is NaN.
    """
    if any(isnan(output) for output in outputs):
        raise UserError(
            f"{row}: the model's output is NaN, which is no answer; it may overflow in float16 "
            "(use model.dtype=bfloat16 or float32), or its weights or the adapter are damaged"
        )


def count(predictions: Sequence[Prediction], *, seconds: float = 0.0) -> Score:
    """The accuracy of one or more predictions."""
    right, n = sum(prediction.correct for prediction in predictions), len(predictions)
    cut = sum(prediction.cut_off for prediction in predictions)
    return Score("accuracy", right / n, n, wilson_interval(right, n), seconds, cut_off=cut)
