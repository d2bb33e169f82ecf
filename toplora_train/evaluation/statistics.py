"""Confidence intervals of scores, and a test whether two scores on the same rows differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Return Wilson's score interval of a proportion.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    Unlike the normal approximation it stays within 0 and 1 and is not too narrow for few rows.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference
    (1927).

    Raises:
        ValueError: no rows, a count outside 0..n, or a confidence outside (0, 1).
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n} is not a proportion")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / n
    centre = share + z * z / (2 * n)
    half_width = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if correct == 0 else (centre - half_width) / scale
    high = 1.0 if correct == n else (centre + half_width) / scale
    return low, high


def majority_share(labels: Sequence[str]) -> float:
    """Return the accuracy of always predicting the most frequent label."""
    if not labels:
        raise ValueError("no labels, so there is no majority")
    return Counter(labels).most_common(1)[0][1] / len(labels)


def mcnemar_mid_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided mid-p value of McNemar's test on paired correctness.

    Under the null hypothesis each row that only one of the two got right is a fair coin flip; the
    mid-p gives the observed split half weight, which makes the exact test less conservative.

    Args:
        only_first: Rows that only the first got right.
        only_second: Rows that only the second got right.

    Source: M. W. Fagerland, S. Lydersen, P. Laake, The McNemar test for binary matched-pairs data:
    mid-p and asymptotic are better than exact conditional (2013).
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative: {only_first}, {only_second}")
    coins, fewer = only_first + only_second, min(only_first, only_second)
    if coins == 0:
        return 1.0
    ways, below = 1, 0  # outcomes with `heads` heads, and with fewer; exact integers
    for heads in range(fewer):
        below += ways
        ways = ways * (coins - heads) // (heads + 1)
    return (2 * below + ways) / (1 << coins)


def mean_interval(
    values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    r"""Return an interval for the unweighted mean of scores with given intervals.

    .. math:: \bar p - \tfrac1k\sqrt{\textstyle\sum_i (p_i - l_i)^2},\quad
              \bar p + \tfrac1k\sqrt{\textstyle\sum_i (u_i - p_i)^2}

    For a single score it is that score's interval.

    Source: G. Y. Zou, A. Donner, Construction of confidence limits about effect measures: a general
    approach (2008), for independent scores.
    """
    k = len(values)
    mean = sum(values) / k
    pairs = list(zip(values, intervals, strict=True))
    below = sqrt(sum((value - low) ** 2 for value, (low, _) in pairs)) / k
    above = sqrt(sum((high - value) ** 2 for value, (_, high) in pairs)) / k
    return mean - below, mean + above
