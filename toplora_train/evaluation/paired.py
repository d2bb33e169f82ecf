r"""Two methods on the same rows: how large the difference is, how sure, and what could be seen.

**The claim.** "Better" is said of methods: that the mean score of the second, over further seeds
and on further rows of the same kind, is above that of the first. A run's mean score is one
observation, whatever the number of its rows: a seed may move all tasks together. With
:math:`s_m^2` the variance between the :math:`S_m` runs of method m and C the covariance of the
scores over samples of rows (:mod:`toplora_train.evaluation.row_scores`), the difference D of the
methods' means has

.. math:: V = \sum_m \frac{\max(s_m^2, \nu_m)}{S_m}
    + \max(0, \bar C_{11} + \bar C_{22} - 2 \bar C_{12})

and :math:`D/\sqrt V` is held against Student's t with Satterthwaite's degrees of freedom.
:math:`\bar C_{mm}` is the mean covariance of two runs of one method, :math:`\bar C_{12}` that of
two runs of different methods: what remains of the rows' luck however many seeds there are.
:math:`\nu_m` is by how much a run's own variance over rows exceeds :math:`\bar C_{mm}`; runs cannot
truly vary less than that, and few runs that seem to would be too sure.

With a single run of a method nothing is known of its seeds. What is said then is said of these
adapters, for further rows: V is their variance over rows, and of one run each p is McNemar's
(mid-p) where right answers are counted.

The smallest difference that a comparison finds four times in five is

.. math:: (t_{1 - \alpha/2} + t_{0.8}) \sqrt V,

at the level :math:`\alpha` that its verdict is held to, and no less than five rows: fewer that
speak for one side only are no proof by any test at 0.05.

Sources: F. E. Satterthwaite, An approximate distribution of estimates of variance components
(1946); B. L. Welch, The generalization of "Student's" problem (1947); N. A. Obuchowski,
H. E. Rockette, Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests
(1995), whose readers are the runs here; S. Holm, A simple sequentially rejective multiple test
procedure (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy.special import stdtr, stdtrit

from toplora_train.evaluation.row_scores import RowScores
from toplora_train.evaluation.statistics import mcnemar_mid_p

FEWEST = 5  # rows for one side and none for the other: McNemar's mid-p is 0.03
LEVEL = 0.05
CONFIDENCE = 1 - LEVEL
POWER = 0.8
MANY_SEEDS = 200


@dataclass(frozen=True)
class Difference:
    """Second minus first.

    Attributes:
        value: The difference of the mean scores.
        ci95: Its interval.
        p: How often chance alone makes a difference as large.
        detectable: The smallest difference that this comparison finds four times in five.
        seed_variance: The sum of both methods' variances between runs; None where a method has one
            run, and then all of this is about these adapters, not about methods.
        row_variance: The variance that no further seed takes away.
    """

    value: float
    ci95: tuple[float, float]
    p: float
    detectable: float
    seed_variance: float | None
    row_variance: float


def compare(
    scores: RowScores, first: Sequence[int], second: Sequence[int], *, tests: int = 1
) -> Difference:
    """Compare two methods.

    Args:
        scores: Of all runs.
        first: Which of the runs are the first method's.
        second: Which are the second's.
        tests: Among how many comparisons this one is. ``detectable`` is at the level that the
            smallest p of as many must reach.
    """
    found = _estimate(scores, second, first)
    single = len(first) == len(second) == 1
    if single and scores.right is not None:
        a, b = scores.right[first[0]], scores.right[second[0]]
        p = mcnemar_mid_p(int((a & ~b).sum()), int((b & ~a).sum()))
    else:
        p = float(min(1.0, 2 * stdtr(found.freedom, -abs(found.value) / found.error)))
    widest = 1 - scores.lowest
    return Difference(
        value=found.value,
        ci95=found.interval(-widest, widest),
        p=p,
        detectable=max(
            _detectable(found.error, found.freedom, tests), FEWEST * sqrt(scores.resolution)
        ),
        seed_variance=found.seed_variance,
        row_variance=found.row_variance,
    )


def interval(scores: RowScores, runs: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of one method's mean score, over rows and, of several runs, over seeds."""
    return _estimate(scores, runs, ()).interval(scores.lowest, 1.0)


def seeds_to_see(gain: float, difference: Difference, *, tests: int = 1) -> int | None:
    """How many seeds each method needs for a true gain to be found four times in five.

    The variances are taken to be what this comparison found, equal in both methods; from few seeds
    that is a rough figure.

    Args:
        gain: The true difference.
        difference: What is known so far, of methods with several seeds.
        tests: As in :func:`compare`.

    Returns:
        The number, or None where even ``MANY_SEEDS`` would not do: the rows are too few.

    Raises:
        ValueError: one of the methods has one seed.
    """
    if difference.seed_variance is None:
        raise ValueError("the variance between seeds is not known from one seed")
    for seeds in range(2, MANY_SEEDS + 1):
        runs = difference.seed_variance / seeds
        variance = runs + difference.row_variance
        freedom = variance**2 * 2 * (seeds - 1) / runs**2 if runs else inf
        if _detectable(sqrt(variance), freedom, tests) <= gain:
            return seeds
    return None


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
    """What may be said at an adjusted ``p``, in words."""
    of_adapters = difference.seed_variance is None
    if p >= LEVEL:
        these = " these adapters apart" if of_adapters else ""
        seen = f"{100 * difference.detectable:.1f} points"
        return f"cannot tell{these}; this comparison could see a difference of {seen}"
    word = "better" if difference.value > 0 else "worse"
    if of_adapters:
        return f"this adapter answers {word} than that one; another seed may not"
    return word


@dataclass(frozen=True)
class _Estimate:
    """A difference, or one score: its standard error, and how well that is known."""

    value: float
    error: float
    freedom: float
    seed_variance: float | None
    row_variance: float

    def interval(self, lowest: float, highest: float) -> tuple[float, float]:
        half = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * self.error
        return max(lowest, self.value - half), min(highest, self.value + half)


def _estimate(scores: RowScores, plus: Sequence[int], minus: Sequence[int]) -> _Estimate:
    """The mean of ``plus`` less that of ``minus``, if any."""
    weights = np.zeros(len(scores.values))
    for sign, runs in ((1.0, plus), (-1.0, minus)):
        weights[list(runs)] += sign / max(len(runs), 1)
    methods = [list(runs) for runs in (plus, minus) if runs]
    value = float(weights @ scores.values)
    as_they_are = float(weights @ scores.covariance @ weights) + scores.resolution
    rows_freedom = float(max(scores.questions - 1, 1))
    if min(map(len, methods)) == 1:
        return _Estimate(value, sqrt(as_they_are), rows_freedom, None, as_they_are)
    noise = [_noise(scores, runs) for runs in methods]
    between = [
        max(float(scores.values[runs].var(ddof=1)), own)
        for runs, own in zip(methods, noise, strict=True)
    ]
    parts = [variance / len(runs) for runs, variance in zip(methods, between, strict=True)]
    luck = sum(own / len(runs) for runs, own in zip(methods, noise, strict=True))
    rows = max(scores.resolution, as_they_are - luck)
    variance = sum(parts) + rows
    freedom = variance**2 / (
        sum(part**2 / (len(runs) - 1) for runs, part in zip(methods, parts, strict=True))
        + rows**2 / rows_freedom
    )
    return _Estimate(value, sqrt(variance), freedom, sum(between), rows)


def _noise(scores: RowScores, runs: list[int]) -> float:
    """How much of a run's variance over rows it does not share with its method's other runs."""
    block = scores.covariance[np.ix_(runs, runs)]
    own = float(np.trace(block)) / len(runs)
    return max(0.0, own - (float(block.sum()) / len(runs) - own) / (len(runs) - 1))


def _detectable(error: float, freedom: float, tests: int) -> float:
    return float(stdtrit(freedom, 1 - LEVEL / tests / 2) + stdtrit(freedom, POWER)) * error
