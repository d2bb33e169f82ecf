r"""Compare two methods on the same rows: the difference, its interval, p value and power.

**The claim.** "Better" is about methods: over new seeds and new rows of the same kind, the mean
score of the second is above that of the first. A run's mean score is one observation, whatever its
number of rows, as a seed may shift all tasks together. With
:math:`s_m^2` the variance between the :math:`S_m` runs of method m and C the covariance of the
scores over samples of rows (:mod:`toplora_train.evaluation.row_scores`), the difference D of the
methods' means has

.. math:: V = \sum_m \frac{\max(s_m^2, \nu_m)}{S_m}
    + \max(0, \bar C_{11} + \bar C_{22} - 2 \bar C_{12}) = P + R

:math:`\bar C_{mm}` is the mean covariance of two runs of one method, :math:`\bar C_{12}` that of
two runs of different methods: the sampling variance of the rows that more seeds do not remove.
:math:`\nu_m`, the excess of a run's own variance over rows over :math:`\bar C_{mm}`, is a lower
bound on the variance between runs, so that a few runs that happen to agree do not look certain.

The variances between runs are known from a few runs, R from many rows. Each part has Student's t of
its own degrees of freedom (Welch's for P, one less than the questions for R), and the half-width of
the interval at level :math:`\alpha` is

.. math:: h(\alpha) = \sqrt{t_{f, 1 - \alpha/2}^2 P + t_{Q - 1, 1 - \alpha/2}^2 R};

p is where :math:`h(p) = |D|`. One t for V, with pooled degrees of freedom, would call equal methods
different too often: where a few runs agree by chance, R is most of V and the pooled t is a normal.

With a single run of a method its variance between seeds is unknown. The result is then about these
adapters on new rows: V is their variance over rows, and for one run each of an accuracy p is
McNemar's mid-p, over questions where some occur in several rows.

The smallest difference detected with a power of 0.8 is h at the verdict's level, with the
noncentrality at which a noncentral t exceeds t with probability 0.8 in the place of each t. It is
at least five rows: fewer rows, all for one side, are not significant by any test at 0.05.

Sources: B. L. Welch, The generalization of "Student's" problem (1947); W. G. Howe, Approximate
confidence limits on the mean of X + Y where X and Y are two tabled independent random variables
(1974), for the root of the sum of squares of the parts' half-widths; N. A. Obuchowski,
H. E. Rockette, Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests
(1995), whose readers are the runs here; S. Holm, A simple sequentially rejective multiple test
procedure (1979).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtrinc, stdtr, stdtrit

from toplora_train.evaluation.row_scores import RowScores
from toplora_train.evaluation.statistics import mcnemar_mid_p

FEWEST = 5  # with 5 rows for one side and none for the other McNemar's mid-p is 0.03
LEVEL = 0.05
POWER = 0.8
SMALLEST_P = 1e-100  # with one degree of freedom, too, Student's quantile is finite there
ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """Second minus first.

    Attributes:
        value: The difference of the mean scores.
        ci95: Its interval.
        p: The two-sided p value.
        detectable: The smallest difference that this comparison detects with a power of 0.8, at
            most the widest possible one.
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
        p = found.p()
    widest = 1 - scores.lowest
    return Difference(
        value=found.value,
        ci95=found.interval(-widest, widest),
        p=p,
        detectable=min(
            widest, max(_detectable(found.parts, tests), FEWEST * sqrt(scores.resolution))
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
        The number; None if the variance over rows alone hides the gain, whatever the seeds.

    Raises:
        ValueError: one of the methods has one seed.
    """
    between = difference.seed_variance
    if between is None:
        raise ValueError("the variance between seeds cannot be estimated from one seed")
    rows = _Part(difference.row_variance, inf)
    if _detectable([rows], tests) >= gain:
        return None

    def sees(seeds: int) -> bool:
        runs = _Part(between / seeds, 2 * (seeds - 1))
        return _detectable([runs, rows], tests) <= gain

    enough = 2
    while not sees(enough):
        enough *= 2
    return bisect_left(range(enough), True, lo=max(2, enough // 2), key=sees)


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


class _Part(NamedTuple):
    """A part of a variance, and the degrees of freedom it was estimated with."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class _Estimate:
    """A difference or a score, with the parts of its variance."""

    value: float
    parts: Sequence[_Part]
    seed_variance: float | None
    row_variance: float

    def interval(self, lowest: float, highest: float) -> tuple[float, float]:
        half = _half_width(self.parts, LEVEL)
        return max(lowest, self.value - half), min(highest, self.value + half)

    def p(self) -> float:
        """The level at which the interval ends at zero."""
        size = abs(self.value)
        t = size / sqrt(sum(part.variance for part in self.parts))
        ends = [max(SMALLEST_P, 2 * float(stdtr(part.freedom, -t))) for part in self.parts]
        low, high = min(ends), max(ends)  # if all the variance were of one part
        if low == high:
            return low

        def excess(log_level: float) -> float:
            return _half_width(self.parts, exp(log_level)) - size

        return exp(brentq(excess, log(low) - ROUNDING, min(0.0, log(high) + ROUNDING)))


def _half_width(parts: Sequence[_Part], level: float) -> float:
    return sqrt(sum(float(stdtrit(f, level / 2)) ** 2 * variance for variance, f in parts))


def _detectable(parts: Sequence[_Part], tests: int) -> float:
    return sqrt(sum(_noncentrality(f, LEVEL / tests) ** 2 * variance for variance, f in parts))


def _noncentrality(freedom: float, level: float) -> float:
    """That of a t that exceeds Student's two-sided quantile with a probability of POWER."""
    return float(nctdtrinc(freedom, 1 - POWER, -stdtrit(freedom, level / 2)))


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
        return _Estimate(value, [_Part(over_rows, rows_freedom)], None, over_rows)
    noise = [_noise(scores, runs) for runs in methods]
    between = [
        max(float(scores.values[runs].var(ddof=1)), own)
        for runs, own in zip(methods, noise, strict=True)
    ]
    of_runs = [variance / len(runs) for runs, variance in zip(methods, between, strict=True)]
    not_shared = sum(own / len(runs) for runs, own in zip(methods, noise, strict=True))
    rows = max(scores.resolution, over_rows - not_shared)
    parts = [_Part(rows, rows_freedom)]
    if any(of_runs):
        welch = sum(of_runs) ** 2 / sum(
            part**2 / (len(runs) - 1) for runs, part in zip(methods, of_runs, strict=True)
        )
        parts.append(_Part(sum(of_runs), welch))
    return _Estimate(value, parts, sum(between), rows)


def _noise(scores: RowScores, runs: list[int]) -> float:
    """The part of a run's variance over rows not shared with its method's other runs."""
    block = scores.covariance[np.ix_(runs, runs)]
    own = float(np.trace(block)) / len(runs)
    return max(0.0, own - (float(block.sum()) / len(runs) - own) / (len(runs) - 1))
