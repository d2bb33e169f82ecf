r"""Runs on the same rows: each run's score, and how the scores vary together over the rows.

The rows of a test set are a sample. A hard sample lowers all runs alike, which says nothing of
their difference; what matters is the covariance :math:`C` of the runs' scores over samples of rows.
Rows of one question (some public test sets ask it twice) are sampled together. For the share of
right answers, with :math:`e_{aq}` the sum over the rows of question q of run a's deviations from
its share, of n rows and Q questions,

.. math:: C_{ab} = \frac{Q}{Q-1} \frac{1}{n^2} \sum_q e_{aq} e_{bq},

which is where the bootstrap over questions converges to; for every other metric it is the bootstrap
itself, whose draws are the same for all runs.

Sources: B. Efron, R. Tibshirani, An introduction to the bootstrap (1993); K.-Y. Liang, S. Zeger,
Longitudinal data analysis using generalized linear models (1986), for the sum over clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toplora_train.evaluation.metrics import METRICS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RESAMPLES = 1000


@dataclass(frozen=True)
class RowScores:
    """A metric of several runs on the same rows, or its mean over tasks.

    Attributes:
        values: The runs' scores, ``(runs,)``.
        covariance: Of the scores over samples of rows, ``(runs, runs)``.
        resolution: The variance of a difference by which a single row would move it: of n rows
            :math:`1/n^2`. No difference is surer than that.
        questions: How many independent ones there are, over tasks the fewest.
        lowest: The lowest score there is (the highest is 1), over tasks their mean.
        right: Which answers were right, ``(runs, rows)``; None where that is not what is scored.
    """

    values: Floats
    covariance: Floats
    resolution: float
    questions: int
    lowest: float = 0.0
    right: Bools | None = None


def share_right(right: Bools, questions: Sequence[str]) -> RowScores:
    """The shares of right answers.

    Args:
        right: ``(runs, rows)``.
        questions: The question of each row.
    """
    cluster = _numbered(questions)
    n, many = right.shape[1], int(cluster.max()) + 1
    answers = right.astype(np.float64)
    values = answers.mean(1)
    sums = answers - values[:, None]
    if many < n:
        sums = np.stack([np.bincount(cluster, weights=row) for row in sums])
    covariance = (sums @ sums.T) / n**2 * (many / max(many - 1, 1))
    return RowScores(values, covariance, 1 / n**2, many, right=right)


def other_metric(
    metric: str,
    predicted: Floats,
    right: Floats,
    questions: Sequence[str],
    *,
    seed: int = 0,
) -> RowScores:
    """The scores by a metric that does not count right answers.

    Args:
        metric: Its name, see :data:`toplora_train.evaluation.metrics.METRICS`.
        predicted: ``(runs, rows)``.
        right: The labels, ``(rows,)``.
        questions: The question of each row.
        seed: Of the bootstrap.
    """
    cluster = _numbered(questions)
    n, many = len(right), int(cluster.max()) + 1
    measure = METRICS[metric]
    values = np.array([measure(row, right) for row in predicted])
    draws = np.empty((RESAMPLES, len(predicted)))
    rng = np.random.default_rng(seed)
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    for index in range(RESAMPLES):
        drawn = rng.integers(0, many, many)
        rows = drawn if many == n else np.concatenate([members[one] for one in drawn])
        draws[index] = [measure(row[rows], right[rows]) for row in predicted]
    covariance = np.cov(draws, rowvar=False).reshape(len(values), len(values))
    lowest = 0.0 if metric == "f1" else -1.0
    return RowScores(values, covariance, 1 / n**2, many, lowest)


def mean_over_tasks(tasks: Sequence[RowScores]) -> RowScores:
    """The plain mean of the tasks' scores; their rows are samples of their own.

    Raises:
        ValueError: there is no task.
    """
    if not tasks:
        raise ValueError("no task, so no mean over tasks")
    if len(tasks) == 1:
        return tasks[0]
    return RowScores(
        np.mean([task.values for task in tasks], axis=0),
        np.sum([task.covariance for task in tasks], axis=0) / len(tasks) ** 2,
        sum(task.resolution for task in tasks) / len(tasks) ** 2,
        min(task.questions for task in tasks),
        sum(task.lowest for task in tasks) / len(tasks),
    )


def _numbered(questions: Sequence[str]) -> NDArray[np.int64]:
    """The questions as numbers from 0, equal ones alike, in the order of their first row."""
    if len(set(questions)) == len(questions):
        return np.arange(len(questions))
    numbers = {question: number for number, question in enumerate(dict.fromkeys(questions))}
    return np.array([numbers[question] for question in questions], dtype=np.int64)
