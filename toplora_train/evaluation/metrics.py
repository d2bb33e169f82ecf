"""Classification and regression metrics in numpy, with confidence intervals.

They equal scikit-learn's (``accuracy_score``, ``f1_score``, ``matthews_corrcoef``) and scipy's
(``pearsonr``, ``spearmanr``). A metric that is undefined because all predictions or all labels are
the same is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toplora_train.config.errors import UserError
from toplora_train.config.plugins import Registry, registered
from toplora_train.evaluation.statistics import wilson_interval

Values = NDArray[np.float64]
"""Class indices (from 0) or regression values; shape ``(rows,)``."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """A metric's value and its 95 % interval."""

    value: float
    ci95: tuple[float, float]


def as_numbers(answers: Sequence[str], choices: Sequence[str]) -> Values:
    """Class names as class indices or, without choices, regression answers as floats."""
    if not choices:
        return np.array([float(answer) for answer in answers])
    indices = {name: index for index, name in enumerate(choices)}
    return np.array([indices[answer] for answer in answers], dtype=np.float64)


def accuracy(predicted: Values, right: Values) -> float:
    """The fraction of rows whose predicted class is correct."""
    return float(np.mean(predicted == right))


def f1(predicted: Values, right: Values) -> float:
    r"""The harmonic mean of precision and recall of class 1: :math:`2tp / (2tp + fp + fn)`."""
    hits = np.sum((predicted == 1) & (right == 1))
    total = np.sum(predicted == 1) + np.sum(right == 1)
    return float(2 * hits / total) if total else 0.0


def macro_f1(predicted: Values, right: Values) -> float:
    r"""The mean over the classes of :math:`2tp / (2tp + fp + fn)`; each counts alike, however rare.

    The classes are those that occur among the labels or the predictions, as in scikit-learn.
    """
    classes = np.union1d(predicted, right)
    return float(np.mean([f1(predicted == one, right == one) for one in classes]))


def matthews(predicted: Values, right: Values) -> float:
    r"""Matthews correlation coefficient for any number of classes.

    .. math:: \frac{n c - \sum_k p_k t_k}{\sqrt{(n^2 - \sum_k p_k^2)(n^2 - \sum_k t_k^2)}}

    with ``n`` rows, ``c`` correct, ``p_k`` predicted as class ``k`` and ``t_k`` labelled so.

    Source: J. Gorodkin, Comparing two K-category assignments by a K-category correlation
    coefficient (2004).
    """
    classes = np.union1d(predicted, right)
    p = np.array([np.sum(predicted == k) for k in classes], dtype=np.float64)
    t = np.array([np.sum(right == k) for k in classes], dtype=np.float64)
    n, c = float(len(right)), float(np.sum(predicted == right))
    spread = (n * n - p @ p) * (n * n - t @ t)
    return float((n * c - p @ t) / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(predicted: Values, right: Values) -> float:
    """Pearson correlation of predictions and labels."""
    x, y = predicted - predicted.mean(), right - right.mean()
    # Normalised separately: the product of two small norms would lose digits.
    scale_x, scale_y = np.linalg.norm(x), np.linalg.norm(y)
    flat = 1e-13 * max(1.0, float(np.abs(predicted).max()), float(np.abs(right).max()))
    if min(scale_x, scale_y) <= flat * np.sqrt(len(right)):
        return 0.0
    return float(np.clip((x / scale_x) @ (y / scale_y), -1.0, 1.0))


def spearman(predicted: Values, right: Values) -> float:
    """Spearman correlation; ties share the mean of their ranks."""
    return pearson(_ranks(predicted), _ranks(right))


def _ranks(values: Values) -> Values:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    ranks: Values = (last - (sizes - 1) / 2)[group]
    return ranks


Metric = Callable[[Values, Values], float]
"""Computes a score between -1 and 1 from predictions and labels; more is better."""

METRICS: Registry[Metric] = Registry(
    accuracy=accuracy,
    f1=f1,
    macro_f1=macro_f1,
    matthews=matthews,
    pearson=pearson,
    spearman=spearman,
)


def find_metric(name: str) -> Metric:
    """The metric of this name, which refuses to give more than a score.

    Raises:
        UserError: There is none, and no module of the user's own has added it; or, when it is
            called, its value is not between -1 and 1.
    """
    metric: Metric = registered(METRICS, name, "metric")

    def score(predicted: Values, right: Values) -> float:
        value = float(metric(predicted, right))
        if abs(value) > 1:
            raise UserError(
                f"metric {name} is {value:.6g}; a metric must be between -1 and 1, and more must "
                "be better: scale it"
            )
        return value

    return score


def validate_metric(name: str, right: Values) -> None:
    """Try a metric on a constant prediction, before anything is trained.

    Raises:
        UserError: See :func:`find_metric`; or its value is NaN.
    """
    _number(name, find_metric(name)(np.full_like(right, right[0]), right))


def _number(name: str, value: float) -> float:
    if np.isnan(value):
        raise UserError(f"metric {name} is NaN on these rows; return 0 where it is undefined")
    return value


def measure(metric: str, predicted: Values, right: Values, *, seed: int = 0) -> Measured:
    """A metric with its 95 % interval: Wilson's for accuracy, else a bootstrap over rows.

    Args:
        metric: A name in ``METRICS``.
        predicted: Predicted class indices or values, one per row.
        right: The labels, likewise.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: no rows, or the numbers of predictions and labels differ.
        UserError: See :func:`validate_metric`.
    """
    if len(predicted) != len(right) or not len(right):
        raise ValueError(f"{len(predicted)} predictions for {len(right)} labels")
    value = _number(metric, find_metric(metric)(predicted, right))
    if metric == "accuracy":
        correct = int(np.sum(predicted == right))
        return Measured(value, wilson_interval(correct, len(right)))
    return Measured(value, bootstrap_interval(find_metric(metric), predicted, right, seed=seed))


def bootstrap_interval(
    metric: Metric, predicted: Values, right: Values, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The central 95 % of the metric's values on rows drawn with replacement.

    If all rows are correct the interval has zero width.

    Source: B. Efron, Bootstrap methods: another look at the jackknife (1979); percentile interval.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    values = np.empty(resamples)
    for index in range(resamples):
        drawn = generator.integers(0, len(right), len(right))
        values[index] = metric(predicted[drawn], right[drawn])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
