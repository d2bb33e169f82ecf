r"""Two methods on the same rows: how large the difference is, how sure, and what could be seen.

The rows are the same, so they are compared row by row; rows of one question (asked twice in some
public test sets) are drawn together. With one seed each, McNemar's exact test with the mid-p value
gives p, and the paired bootstrap the interval. With several seeds both levels are drawn, the seeds
and the questions, because a method's next seed is not its last one; then p is the bootstrap's own.

The smallest difference that such a comparison finds four times in five (at a p of 0.05) is

.. math:: (z_{0.975} + z_{0.8}) \cdot \mathrm{SE} \approx 2.8\,\mathrm{SE},

with the bootstrap's standard error, and no less than five rows: fewer that speak for one side only
are no proof by any test at 0.05. "Cannot tell" without that number says nothing.

Sources: B. Efron, R. Tibshirani, An introduction to the bootstrap (1993); S. Holm, A simple
sequentially rejective multiple test procedure (1979); for McNemar see
:func:`toplora_train.evaluation.statistics.mcnemar_mid_p`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from toplora_train.evaluation.statistics import mcnemar_mid_p

Right = NDArray[np.float64]
"""Which answers were right, ``(seeds, rows)``, 1 or 0."""

RESAMPLES = 4000
AT_ONCE = 200  # draws in memory together
FEWEST = 5  # rows for one side and none for the other: McNemar's mid-p is 0.03
POWER = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)


@dataclass(frozen=True)
class Difference:
    """Second minus first.

    Attributes:
        value: The difference of the two shares of right answers.
        ci95: Its bootstrap interval.
        p: How often such a difference would come about were there none.
        detectable: The smallest difference that this comparison finds four times in five.
    """

    value: float
    ci95: tuple[float, float]
    p: float
    detectable: float


def compare(first: Right, second: Right, questions: Sequence[str], *, seed: int = 0) -> Difference:
    """Compare two methods on one task.

    Args:
        first: The right answers of the first method, a row per seed.
        second: Those of the second.
        questions: The question of each row; rows of an equal one are drawn together.
        seed: Of the bootstrap's draws.
    """
    return _compared(first, second, differences(first, second, questions, seed=seed))


def compare_tasks(
    tasks: Sequence[tuple[Right, Right, Sequence[str]]],
) -> tuple[list[Difference], Difference]:
    """Compare two methods on each task as :func:`compare` does, and on the plain mean of all.

    Raises:
        ValueError: there is no task.
    """
    if not tasks:
        raise ValueError("no task, so no mean over tasks")
    draws = [differences(*task, seed=index) for index, task in enumerate(tasks)]
    each = [_compared(first, second, d) for (first, second, _), d in zip(tasks, draws, strict=True)]
    if len(each) == 1:
        return each, each[0]
    mean = np.mean(draws, axis=0)
    value = float(np.mean([difference.value for difference in each]))
    rows = sum(len(questions) for _, _, questions in tasks)
    return each, _difference(value, mean, _bootstrap_p(mean), rows=rows)


def differences(
    first: Right, second: Right, questions: Sequence[str], *, seed: int
) -> NDArray[np.float64]:
    """The difference in each of the bootstrap's draws of seeds and questions."""
    numbers = {question: number for number, question in enumerate(dict.fromkeys(questions))}
    cluster = np.array([numbers[question] for question in questions])
    sizes = np.bincount(cluster).astype(np.float64)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES // AT_ONCE):
        drawn_first = rng.integers(0, len(first), (AT_ONCE, len(first)))
        drawn_second = rng.integers(0, len(second), (AT_ONCE, len(second)))
        rows = second[drawn_second].mean(1) - first[drawn_first].mean(1)
        sums = np.stack([np.bincount(cluster, weights=one) for one in rows])
        drawn = rng.integers(0, len(sizes), (AT_ONCE, len(sizes)))
        found.append(np.take_along_axis(sums, drawn, 1).sum(1) / sizes[drawn].sum(1))
    return np.concatenate(found)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for being several: the chance that any of them is below by luck is kept."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def verdict(difference: Difference, p: float) -> str:
    """``better``, ``worse``, or that it cannot be told and what could have been seen."""
    if p < 0.05:
        return "better" if difference.value > 0 else "worse"
    return f"cannot tell; could see {100 * difference.detectable:.1f} points"


def _compared(first: Right, second: Right, draws: NDArray[np.float64]) -> Difference:
    value = float(second.mean() - first.mean())
    alone = len(first) == len(second) == 1
    p = _mcnemar(first[0], second[0]) if alone else _bootstrap_p(draws)
    return _difference(value, draws, p, rows=first.shape[1])


def _difference(value: float, draws: NDArray[np.float64], p: float, *, rows: int) -> Difference:
    low, high = np.quantile(draws, [0.025, 0.975])
    detectable = max(POWER * float(draws.std(ddof=1)), FEWEST / rows)
    return Difference(value, (float(low), float(high)), p, detectable)


def _mcnemar(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return mcnemar_mid_p(int((first > second).sum()), int((second > first).sum()))


def _bootstrap_p(draws: NDArray[np.float64]) -> float:
    """Twice the share of draws on the other side of zero; never 0, as the draws are finite."""
    below, above = (draws <= 0).sum() + 1, (draws >= 0).sum() + 1
    return float(min(1.0, 2 * min(below, above) / (len(draws) + 1)))
