r"""Scores of several runs on the same rows, and their covariance over samples of rows.

A test set is a sample of rows. A hard sample lowers all runs alike without affecting their
difference, so what matters is the covariance :math:`C` of the runs' scores over samples of rows.
Rows with the same question (some public test sets repeat one) are sampled together. For accuracy,
with n rows, Q questions and :math:`e_{aq}` the sum of run a's deviations from its accuracy over the
rows of question q,

.. math:: C_{ab} = \frac{Q}{Q-1} \frac{1}{n^2} \sum_q e_{aq} e_{bq},

the limit of the bootstrap over questions; for other metrics C is that bootstrap's, with the same
draws for all runs.

Sources: B. Efron, R. Tibshirani, An introduction to the bootstrap (1993); K.-Y. Liang, S. Zeger,
Longitudinal data analysis using generalized linear models (1986), for the sum over clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toplora_train.evaluation.metrics import find_metric

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RESAMPLES = 1000


@dataclass(frozen=True)
class RowScores:
    """A metric of several runs on the same rows, or its mean over tasks.

    Attributes:
        values: The runs' scores, ``(runs,)``.
        covariance: Covariance of the scores over samples of rows, ``(runs, runs)``.
        resolution: The squared change of a score by a single row, :math:`1/n^2` for n rows; a lower
            bound on the variance of a difference.
        questions: The number of distinct questions; over several tasks, the fewest.
        lowest: The lowest possible score (the highest is 1); over several tasks, the mean.
        right: The number of correct answers to each question, ``(runs, questions)``; None for
            metrics other than accuracy.
    """

    values: Floats
    covariance: Floats
    resolution: float
    questions: int
    lowest: float = 0.0
    right: Floats | None = None


def share_right(right: Bools, questions: Sequence[str]) -> RowScores:
    """The accuracies.

    Args:
        right: Which answers are correct, ``(runs, rows)``.
        questions: The question of each row.
    """
    cluster = _numbered(questions)
    n, many = right.shape[1], int(cluster.max()) + 1
    answers = right.astype(np.float64)
    values = answers.mean(1)
    if many < n:
        answers = np.stack([np.bincount(cluster, weights=row) for row in answers])
    sums = answers - values[:, None] * np.bincount(cluster)
    covariance = (sums @ sums.T) / n**2 * (many / max(many - 1, 1))
    return RowScores(values, covariance, 1 / n**2, many, right=answers)


def other_metric(
    metric: str, predicted: Floats, right: Floats, questions: Sequence[str], *, seed: int = 0
) -> RowScores:
    """The scores by a metric other than accuracy.

    Args:
        metric: A name in :data:`toplora_train.evaluation.metrics.METRICS`.
        predicted: The predictions, ``(runs, rows)``.
        right: The labels, ``(rows,)``.
        questions: The question of each row.
        seed: Seed of the bootstrap.
    """
    cluster = _numbered(questions)
    n, many = len(right), int(cluster.max()) + 1
    measure = find_metric(metric)
    values = np.array([measure(row, right) for row in predicted])
    draws = np.empty((RESAMPLES, len(predicted)))
    rng = np.random.default_rng(seed)
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    for index in range(RESAMPLES):
        drawn = rng.integers(0, many, many)
        rows = drawn if many == n else np.concatenate([members[one] for one in drawn])
        draws[index] = [measure(row[rows], right[rows]) for row in predicted]
    covariance = np.cov(draws, rowvar=False).reshape(len(values), len(values))
    lowest = 0.0 if metric in ("f1", "macro_f1") else -1.0
    return RowScores(values, covariance, 1 / n**2, many, lowest)


def mean_over_tasks(tasks: Sequence[RowScores]) -> RowScores:
    """The unweighted mean of the tasks' scores; tasks are sampled independently.

    Raises:
        ValueError: there are no tasks.
    """
    if not tasks:
        raise ValueError("no tasks to average over")
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
    """An index from 0 for each distinct question, in order of first occurrence."""
    if len(set(questions)) == len(questions):
        return np.arange(len(questions))
    numbers = {question: number for number, question in enumerate(dict.fromkeys(questions))}
    return np.array([numbers[question] for question in questions], dtype=np.int64)
