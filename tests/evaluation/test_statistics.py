import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from toplora_train.evaluation.statistics import (
    majority_share,
    mcnemar_mid_p,
    mean_interval,
    wilson_interval,
)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("correct", "n"), [(0, 1), (1, 1), (0, 40), (13, 40), (40, 40), (800, 1319)]
)
def test_the_wilson_interval_equals_scipys(correct, n, confidence):
    oracle = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, n, confidence) == pytest.approx(tuple(oracle), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_an_impossible_proportion_is_refused(correct, n):
    with pytest.raises(ValueError, match="is not a proportion"):
        wilson_interval(correct, n)


def test_an_impossible_confidence_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence=95)


def test_the_majority_share_is_that_of_the_most_frequent_label():
    assert majority_share(["a", "b", "a", "c"]) == 0.5
    with pytest.raises(ValueError, match="no labels"):
        majority_share([])


@pytest.mark.parametrize(
    ("first", "second"), [(0, 1), (1, 0), (3, 9), (9, 3), (5, 5), (0, 40), (700, 800)]
)
def test_the_mid_p_value_equals_the_binomial_tails(first, second):
    coins, fewer = first + second, min(first, second)
    coin = stats.binom(coins, 0.5)
    oracle = 2 * (coin.cdf(fewer) - coin.pmf(fewer) / 2)
    assert mcnemar_mid_p(first, second) == pytest.approx(oracle, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_mid_p_value_is_statsmodels_exact_one_without_half_the_observed_table(seed):
    rng = np.random.default_rng(seed)
    table = rng.multinomial(200, [0.6, 0.12, 0.08, 0.2]).reshape(2, 2)
    first, second = int(table[0, 1]), int(table[1, 0])
    exact = mcnemar(table, exact=True).pvalue
    observed = stats.binom(first + second, 0.5).pmf(min(first, second))
    assert first != second
    assert mcnemar_mid_p(first, second) == pytest.approx(exact - observed, rel=1e-9)


def test_models_that_never_disagree_have_p_one():
    assert mcnemar_mid_p(0, 0) == 1.0


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="negative"):
        mcnemar_mid_p(-1, 2)


def test_the_interval_of_one_score_is_the_interval_of_its_mean():
    assert mean_interval([0.4], [(0.25, 0.6)]) == pytest.approx((0.25, 0.6))


def test_the_interval_of_a_mean_narrows_with_the_root_of_the_number_of_scores():
    low, high = mean_interval([0.5] * 4, [(0.4, 0.7)] * 4)
    assert (low, high) == pytest.approx((0.45, 0.6))
