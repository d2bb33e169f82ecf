import math

import numpy as np
import pytest

from toplora_train.evaluation.paired import (
    FEWEST,
    POWER,
    RESAMPLES,
    Difference,
    compare,
    compare_tasks,
    differences,
    holm,
    verdict,
)
from toplora_train.evaluation.statistics import mcnemar_mid_p

N = 400


def right(share, seeds=1, n=N, seed=0):
    return (np.random.default_rng(seed).random((seeds, n)) < share).astype(float)


def questions(n=N):
    return [f"q{i}" for i in range(n)]


def test_with_one_seed_each_p_is_mcnemars_and_the_interval_that_of_the_pairs():
    first, second = right(0.5), right(0.6, seed=1)
    found = compare(first, second, questions())
    b, c = int((first > second).sum()), int((second > first).sum())
    assert found.p == mcnemar_mid_p(b, c)
    assert found.value == pytest.approx((c - b) / N)
    error = (second - first)[0].std() / math.sqrt(N)
    half = (found.ci95[1] - found.ci95[0]) / 2
    assert half == pytest.approx(1.96 * error, rel=0.06)
    assert found.detectable == pytest.approx(POWER * error, rel=0.05)


def test_the_same_draws_are_made_again():
    assert compare(right(0.5), right(0.6, seed=1), questions()) == compare(
        right(0.5), right(0.6, seed=1), questions()
    )


def test_rows_of_one_question_count_as_one():
    first, second = right(0.5, n=100), right(0.6, n=100, seed=1)
    alone = differences(first, second, questions(100), seed=0).std()
    fourfold = [f"q{i}" for i in range(100) for _ in range(4)]
    together = differences(np.repeat(first, 4, 1), np.repeat(second, 4, 1), fourfold, seed=0).std()
    assert together == pytest.approx(alone, rel=0.05)


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(0)
    base = right(0.5)
    steady = np.repeat(right(0.6, seed=1), 4, axis=0)
    levels = np.array([0.45, 0.55, 0.65, 0.75])[:, None]
    unsteady = (rng.random((4, N)) < levels).astype(float)
    narrow, wide = (compare(base, one, questions()) for one in (steady, unsteady))
    assert wide.detectable > 1.3 * narrow.detectable


def test_no_seed_and_no_draw_makes_a_p_of_zero():
    found = compare(np.zeros((2, 50)), np.ones((2, 50)), questions(50))
    assert found.p == pytest.approx(2 / (RESAMPLES + 1))
    assert found.value == 1


def test_equal_answers_do_not_pretend_to_have_seen_everything():
    same = right(0.5)
    found = compare(same, same, questions())
    assert (found.value, found.p) == (0, 1)
    assert found.detectable == FEWEST / N
    assert mcnemar_mid_p(FEWEST, 0) < 0.05 < mcnemar_mid_p(FEWEST - 1, 0)


def test_the_mean_over_tasks_is_surer_than_one_of_them():
    tasks = [(right(0.5, seed=i), right(0.55, seed=10 + i), questions()) for i in range(4)]
    single, mean = compare_tasks(tasks)
    assert single == [compare(*task, seed=index) for index, task in enumerate(tasks)]
    assert mean.value == pytest.approx(np.mean([one.value for one in single]))
    expected = math.sqrt(sum(one.detectable**2 for one in single)) / 4
    assert mean.detectable == pytest.approx(expected, rel=0.06)


def test_the_mean_over_one_task_is_that_task():
    (single,), mean = compare_tasks([(right(0.5), right(0.6, seed=1), questions())])
    assert mean is single
    with pytest.raises(ValueError, match="no task"):
        compare_tasks([])


def test_a_difference_that_could_be_seen_is_seen_four_times_in_five():
    rng = np.random.default_rng(3)
    n, p_first = 300, 0.5
    gain = compare(right(0.5, n=n), right(0.6, n=n, seed=1), questions(n)).detectable
    found = 0
    for _ in range(200):
        first = (rng.random((1, n)) < p_first).astype(float)
        second = (rng.random((1, n)) < p_first + gain).astype(float)
        b, c = int((first > second).sum()), int((second > first).sum())
        found += mcnemar_mid_p(b, c) < 0.05
    assert 0.7 < found / 200 < 0.9


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5], [0.5]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_the_verdict_is_in_words():
    gain = Difference(0.02, (0.01, 0.03), 0.01, 0.016)
    loss = Difference(-0.02, (-0.03, -0.01), 0.01, 0.016)
    assert verdict(gain, 0.03) == "better"
    assert verdict(loss, 0.03) == "worse"
    assert verdict(gain, 0.07) == "cannot tell; could see 1.6 points"
