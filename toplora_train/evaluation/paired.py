r"""Compare two methods on the same rows: the difference, its interval, p value and power.

**The claim.** "Better" is about methods: over new seeds and new rows of the same kind, the mean
score of the second is above that of the first. A run's mean score is one observation, whatever its
number of rows, as a seed may shift all tasks together. With
:math:`s_m^2` the variance between the :math:`S_m` runs of method m and C the covariance of the
scores over samples of rows (:mod:`toplora_train.evaluation.row_scores`), the difference D of the
methods' means has

.. math:: V = \sum_m \frac{\max(s_m^2, \nu_m)}{S_m}
    + \max(0, \bar C_{11} + \bar C_{22} - 2 \bar C_{12})

and :math:`D/\sqrt V` is compared with Student's t with Satterthwaite's degrees of freedom.
:math:`\bar C_{mm}` is the mean covariance of two runs of one method, :math:`\bar C_{12}` that of
two runs of different methods: the sampling variance of the rows that more seeds do not remove.
:math:`\nu_m`, the excess of a run's own variance over rows over :math:`\bar C_{mm}`, is a lower
bound on the variance between runs, so that a few runs that happen to agree do not look certain.

With a single run of a method its variance between seeds is unknown. The result is then about these
adapters on new rows: V is their variance over rows, and for one run each of an accuracy p is
McNemar's mid-p, over questions where some occur in several rows.

The smallest difference detected with a power of 0.8 is

.. math:: (t_{1 - \alpha/2} + t_{0.8}) \sqrt V,

at the verdict's level :math:`\alpha`, and at least five rows: fewer rows, all for one side, are not
significant by any test at 0.05.

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

FEWEST = 5  # with 5 rows for one side and none for the other McNemar's mid-p is 0.03
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
        p: The two-sided p value.
        detectable: The smallest difference that this comparison detects with a power of 0.8.
        seed_variance: The sum of both methods' variances between runs; None if a method has one
            run, and then the result is about these adapters, not about methods.
        row_variance: The variance that more seeds do not reduce.
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
        scores: The scores of all runs.
        first: The indices of the first method's runs.
        second: The indices of the second method's runs.
        tests: The number of comparisons that this one belongs to; ``detectable`` is at the level
            that the smallest of so many p values must reach.
    """
    found = _estimate(scores, second, first)
    single = len(first) == len(second) == 1
    if single and scores.right is not None:
        a, b = scores.right[first[0]], scores.right[second[0]]
        p = mcnemar_mid_p(int((a > b).sum()), int((b > a).sum()))
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
    """The 95 % interval of a method's mean score, over rows and, with several runs, seeds."""
    return _estimate(scores, runs, ()).interval(scores.lowest, 1.0)


def seeds_to_see(gain: float, difference: Difference, *, tests: int = 1) -> int | None:
    """The seeds each method needs to detect a true gain with a power of 0.8.

    Assumes the variances of this comparison, equal for both methods; from few seeds a rough figure.

    Args:
        gain: The true difference.
        difference: A comparison of methods with several seeds each.
        tests: As in :func:`compare`.

    Returns:
        The number, or None if not even ``MANY_SEEDS`` suffice: there are too few rows.

    Raises:
        ValueError: one of the methods has one seed.
    """
    if difference.seed_variance is None:
        raise ValueError("the variance between seeds cannot be estimated from one seed")
    for seeds in range(2, MANY_SEEDS + 1):
        runs = difference.seed_variance / seeds
        variance = runs + difference.row_variance
        freedom = variance**2 * 2 * (seeds - 1) / runs**2 if runs else inf
        if _detectable(sqrt(variance), freedom, tests) <= gain:
            return seeds
    return None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, which control the family-wise error rate."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def verdict(difference: Difference, p: float) -> str:
    """The verdict at an adjusted ``p``, in words."""
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
    """A difference or a score, with its standard error and degrees of freedom."""

    value: float
    error: float
    freedom: float
    seed_variance: float | None
    row_variance: float

    def interval(self, lowest: float, highest: float) -> tuple[float, float]:
        half = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * self.error
        return max(lowest, self.value - half), min(highest, self.value + half)


def _estimate(scores: RowScores, plus: Sequence[int], minus: Sequence[int]) -> _Estimate:
    """The mean of ``plus`` minus that of ``minus``, if any."""
    weights = np.zeros(len(scores.values))
    for sign, runs in ((1.0, plus), (-1.0, minus)):
        weights[list(runs)] += sign / max(len(runs), 1)
    methods = [list(runs) for runs in (plus, minus) if runs]
    value = float(weights @ scores.values)
    over_rows = float(weights @ scores.covariance @ weights) + scores.resolution
    rows_freedom = float(max(scores.questions - 1, 1))
    if min(map(len, methods)) == 1:
        return _Estimate(value, sqrt(over_rows), rows_freedom, None, over_rows)
    noise = [_noise(scores, runs) for runs in methods]
    between = [
        max(float(scores.values[runs].var(ddof=1)), own)
        for runs, own in zip(methods, noise, strict=True)
    ]
    parts = [variance / len(runs) for runs, variance in zip(methods, between, strict=True)]
    not_shared = sum(own / len(runs) for runs, own in zip(methods, noise, strict=True))
    rows = max(scores.resolution, over_rows - not_shared)
    variance = sum(parts) + rows
    freedom = variance**2 / (
        sum(part**2 / (len(runs) - 1) for runs, part in zip(methods, parts, strict=True))
        + rows**2 / rows_freedom
    )
    return _Estimate(value, sqrt(variance), freedom, sum(between), rows)


def _noise(scores: RowScores, runs: list[int]) -> float:
    """The part of a run's variance over rows not shared with its method's other runs."""
    block = scores.covariance[np.ix_(runs, runs)]
    own = float(np.trace(block)) / len(runs)
    return max(0.0, own - (float(block.sum()) / len(runs) - own) / (len(runs) - 1))


def _detectable(error: float, freedom: float, tests: int) -> float:
    return float(stdtrit(freedom, 1 - LEVEL / tests / 2) + stdtrit(freedom, POWER)) * error
