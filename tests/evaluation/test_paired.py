import math
from itertools import combinations

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from toplora_train.evaluation.paired import (
    FEWEST,
    Difference,
    compare,
    holm,
    interval,
    seeds_to_see,
    verdict,
)
from toplora_train.evaluation.row_scores import RowScores, mean_over_tasks, share_right
from toplora_train.evaluation.statistics import mcnemar_mid_p

N = 400


def right(share, runs=1, n=N, seed=0):
    return np.random.default_rng(seed).random((runs, n)) < share


def scored(*runs, n=N):
    return share_right(np.concatenate(runs), [f"q{i}" for i in range(n)])


def of_seeds(*values, rows=0.0):
    """Runs with given scores and a row variance that all share."""
    many = len(values)
    return RowScores(np.array(values), np.full((many, many), rows), 1e-18, 10**6)


def test_with_one_seed_each_p_is_mcnemars_and_the_interval_that_of_paired_rows():
    first, second = right(0.5), right(0.6, seed=1)
    found = compare(scored(first, second), [0], [1])
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    assert found.p == mcnemar_mid_p(b, c)
    assert found.value == pytest.approx((c - b) / N)
    assert found.seed_variance is None
    oracle = stats.ttest_rel(second[0].astype(float), first[0].astype(float))
    assert found.ci95 == pytest.approx(tuple(oracle.confidence_interval(0.95)), abs=5e-4)


def test_rows_that_repeat_a_question_are_one_question_for_mcnemars_test():
    first, second = right(0.5), right(0.6, seed=1)
    names = [f"q{i}" for i in range(N)]
    thrice = [np.concatenate([one, one, one], axis=1) for one in (first, second)]
    once = compare(share_right(np.concatenate([first, second]), names), [0], [1])
    repeated = compare(share_right(np.concatenate(thrice), [*names, *names, *names]), [0], [1])
    assert repeated.p == once.p
    assert repeated.value == pytest.approx(once.value)


def test_with_several_seeds_and_no_row_variance_it_is_welchs_test():
    first, second = [0.70, 0.72, 0.71], [0.74, 0.71, 0.76, 0.75]
    found = compare(of_seeds(*first, *second), [0, 1, 2], [3, 4, 5, 6])
    oracle = stats.ttest_ind(second, first, equal_var=False)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-6)
    assert found.ci95 == pytest.approx(tuple(oracle.confidence_interval(0.95)), rel=1e-6)
    assert found.seed_variance == pytest.approx(np.var(first, ddof=1) + np.var(second, ddof=1))


def test_row_variance_shared_by_all_runs_does_not_widen_the_interval():
    values = (0.70, 0.72, 0.71, 0.75)
    found = [compare(of_seeds(*values, rows=rows), [0, 1], [2, 3]) for rows in (0.0, 0.01)]
    assert found[0].p == pytest.approx(found[1].p)


def test_row_variance_shared_within_a_method_widens_the_interval():
    values, block = np.linspace(0.70, 0.75, 10), np.kron(np.eye(2), np.ones((5, 5)))
    narrow = compare(RowScores(values, 0 * block, 0.0, 500), range(5), range(5, 10))
    wide = compare(RowScores(values, 0.001 * block, 0.0, 500), range(5), range(5, 10))
    assert wide.row_variance == pytest.approx(0.002)
    assert wide.detectable > narrow.detectable


def test_runs_that_agree_by_chance_are_no_more_certain_than_their_rows():
    equal, values = 1e-4 * np.eye(4), np.array([0.7, 0.7, 0.72, 0.72])
    found = compare(RowScores(values, equal, 0.0, 500), [0, 1], [2, 3])
    assert found.seed_variance == pytest.approx(2e-4)


def test_seeds_that_disagree_widen_the_interval():
    base, steady = right(0.5, runs=4), right(0.6, runs=4, seed=1)
    levels = np.array([0.45, 0.55, 0.65, 0.75])[:, None]
    unsteady = np.random.default_rng(0).random((4, N)) < levels
    narrow, wide = (
        compare(scored(base, one), [0, 1, 2, 3], [4, 5, 6, 7]) for one in (steady, unsteady)
    )
    assert wide.detectable > 1.3 * narrow.detectable


def test_one_seed_of_a_method_allows_a_verdict_on_adapters_only():
    found = compare(scored(right(0.5), right(0.6, runs=3, seed=1)), [0], [1, 2, 3])
    assert found.seed_variance is None
    assert 0 < found.p < 1


def test_p_is_never_zero():
    found = compare(scored(right(0, 2, n=50), right(1, 2, n=50), n=50), [0, 1], [2, 3])
    assert found.p > 0
    assert (found.value, found.ci95[1]) == (1, 1)


def test_few_rows_are_never_significant_however_many_seeds_repeat_them():
    scores = scored(right(0, 5, n=3), right(1, 5, n=3), n=3)
    assert compare(scores, range(5), range(5, 10)).p > 0.05


def test_identical_answers_still_have_an_interval():
    same = right(0.5)
    found = compare(scored(same, same), [0], [1])
    assert (found.value, found.p) == (0, 1)
    assert found.detectable == FEWEST / N
    assert found.ci95[1] > 0
    assert mcnemar_mid_p(FEWEST, 0) < 0.05 < mcnemar_mid_p(FEWEST - 1, 0)


def test_a_seed_effect_common_to_all_tasks_does_not_average_out():
    moved = np.array([-0.02, 0.0, 0.02, -0.01, 0.01, 0.03])
    tasks = [of_seeds(*(0.6 + moved)) for _ in range(8)]
    mean = mean_over_tasks(tasks)
    alone, average = (compare(one, [0, 1, 2], [3, 4, 5]) for one in (tasks[0], mean))
    assert average.seed_variance == pytest.approx(alone.seed_variance)


@pytest.mark.parametrize("common", [True, False])
def test_the_false_positive_rate_is_at_most_the_level(common):
    """The large simulation is benchmarks/false_verdicts.py; this one has few rows."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        moved = rng.normal(size=(6, 1)) * 0.05 if common else rng.normal(size=(6, 4)) * 0.05
        moved = np.broadcast_to(moved, (6, 4))
        hard = rng.random((4, 100))
        luck = rng.normal(size=(6, 4, 100)) * 0.05
        tasks = [scored(hard[t] + luck[:, t] < 0.7 + moved[:, t, None], n=100) for t in range(4)]
        wrong += compare(mean_over_tasks(tasks), [0, 1, 2], [3, 4, 5]).p < 0.05
    assert wrong <= stats.binom(400, 0.05).ppf(0.99)


def family(rng, *, methods, seeds, shared, count):
    """Reports on equal methods: each has runs that vary by 1 point, and its own luck with rows."""
    luck = rng.normal(size=(count, methods, 1)) * shared * 0.01 / math.sqrt(2)
    values = luck + rng.normal(size=(count, methods, seeds)) * 0.01
    block = np.kron(np.eye(methods), np.ones((seeds, seeds))) * (shared * 0.01) ** 2 / 2
    for one in values.reshape(count, -1):
        yield RowScores(0.7 + one, block, 1e-14, 5000)


@pytest.mark.parametrize(("methods", "seeds", "shared"), [(6, 2, 0.3), (6, 3, 0.3), (4, 5, 0.5)])
def test_a_report_of_equal_methods_has_a_verdict_at_most_one_time_in_twenty(methods, seeds, shared):
    """With pooled degrees of freedom 18, 7 and 6 % of these reports have one."""
    runs = [range(seeds * m, seeds * (m + 1)) for m in range(methods)]
    pairs = list(combinations(runs, 2))
    reports = family(
        np.random.default_rng(0), methods=methods, seeds=seeds, shared=shared, count=300
    )
    wrong = sum(
        min(compare(scores, first, second).p for first, second in pairs) < 0.05 / len(pairs)
        for scores in reports
    )
    assert wrong <= stats.binom(300, 0.05).ppf(0.99)


def test_p_is_the_level_of_the_interval_that_ends_at_zero():
    values = np.array([0.70, 0.72, 0.71, 0.75, 0.78, 0.77])
    block = np.kron(np.eye(2), np.ones((3, 3))) * 1e-4
    found = compare(RowScores(values, block, 0.0, 40), [0, 1, 2], [3, 4, 5])
    runs = np.var(values[:3], ddof=1) / 3 + np.var(values[3:], ddof=1) / 3
    freedom = stats.ttest_ind(values[:3], values[3:], equal_var=False).df
    half = [
        math.hypot(
            *(
                stats.t(f).ppf(1 - level / 2) * math.sqrt(v)
                for v, f in ((runs, freedom), (2e-4, 39))
            )
        )
        for level in (0.05, found.p)
    ]
    assert found.ci95 == pytest.approx((found.value - half[0], found.value + half[0]))
    assert half[1] == pytest.approx(found.value)


@pytest.mark.parametrize(("seeds", "shared"), [(3, 0.0), (5, 0.0), (3, 1.0), (5, 1.0)])
def test_the_detectable_difference_is_detected_with_a_power_of_0_8(seeds, shared):
    """From the true variances; those of few runs are rough."""
    rng, runs = np.random.default_rng(3), (range(seeds), range(seeds, 2 * seeds))
    of_runs, of_rows = 2e-4 / seeds, (shared * 0.01) ** 2
    gain = math.hypot(
        noncentrality(2 * (seeds - 1)) * math.sqrt(of_runs),
        noncentrality(10**6) * math.sqrt(of_rows),
    )
    found = detectable = 0.0
    for scores in family(rng, methods=2, seeds=seeds, shared=shared, count=400):
        scores.values[seeds:] += gain
        one = compare(scores, *runs)
        found += one.p < 0.05
        detectable += one.detectable / 400
    assert 0.68 < found / 400 < 0.88  # Welch's freedom is below 4 with three seeds
    assert detectable == pytest.approx(gain, rel=0.15)


def noncentrality(freedom):
    quantile = stats.t(freedom).ppf(0.975)
    return optimize.brentq(lambda d: stats.nct(freedom, d).sf(quantile) - 0.8, 0.1, 50)


def test_no_difference_is_detectable_beyond_the_widest_one():
    assert compare(of_seeds(0.1, 0.9, 0.2, 0.8), [0, 1], [2, 3]).detectable == 1


def test_with_more_comparisons_only_larger_differences_are_detectable():
    scores = of_seeds(0.70, 0.72, 0.71, 0.74, 0.71, 0.76)
    few, many = (compare(scores, [0, 1, 2], [3, 4, 5], tests=tests) for tests in (1, 8))
    assert many.detectable > few.detectable
    assert many.p == few.p


def test_seeds_to_see_is_the_fewest_that_detect_the_gain():
    rng = np.random.default_rng(0)
    known = compare(of_seeds(*rng.normal(size=50), *rng.normal(size=50)), range(50), range(50, 100))
    needed = seeds_to_see(2.0, known)

    def power(seeds):
        error = math.sqrt(known.seed_variance / seeds)
        return stats.nct(2 * (seeds - 1), 2.0 / error).sf(stats.t(2 * (seeds - 1)).ppf(0.975))

    assert power(needed - 1) < 0.8 < power(needed)
    assert seeds_to_see(4.0, known) < needed < seeds_to_see(2.0, known, tests=8)
    assert seeds_to_see(0.05, known) == pytest.approx(
        2 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / 0.05**2, rel=0.2
    )


def test_no_number_of_seeds_makes_up_for_too_few_rows():
    assert seeds_to_see(0.01, Difference(0, (0, 0), 1, 0.1, 1e-8, 0.01**2)) is None
    with pytest.raises(ValueError, match="cannot be estimated from one seed"):
        seeds_to_see(0.01, Difference(0, (0, 0), 1, 0.1, None, 1e-4))


def test_the_interval_of_a_mean_is_students_within_the_range_of_scores():
    values = [0.70, 0.72, 0.75]
    oracle = stats.t(2, np.mean(values), stats.sem(values)).interval(0.95)
    assert interval(of_seeds(*values), [0, 1, 2]) == pytest.approx(oracle, rel=1e-6)
    assert interval(of_seeds(0.9, 0.99), [0, 1])[1] == 1


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


@pytest.mark.parametrize("seed", range(5))
def test_holm_equals_statsmodels(seed):
    p = np.random.default_rng(seed).random(12) ** 3
    oracle = multipletests(p, method="holm")[1]
    assert holm(p) == pytest.approx(list(oracle), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_what_the_step_down_procedure_rejects(seed):
    """Reject the smallest p values as long as the k-th is below level / (m - k)."""
    p = np.random.default_rng(seed).random(12) ** 3
    for level in (0.01, 0.05, 0.2):
        ordered = np.sort(p)
        passed = ordered < level / np.arange(len(p), 0, -1)
        rejected = int(np.argmin(passed)) if not passed.all() else len(p)
        assert sum(one < level for one in holm(p)) == rejected


def test_the_verdict_is_in_words():
    gain = Difference(0.02, (0.01, 0.03), 0.01, 0.016, 1e-4, 1e-5)
    loss = Difference(-0.02, (-0.03, -0.01), 0.01, 0.016, 1e-4, 1e-5)
    assert verdict(gain, 0.03) == "better"
    assert verdict(loss, 0.03) == "worse"
    seen = "this comparison could see a difference of 1.6 points"
    assert verdict(gain, 0.07) == f"cannot tell; {seen}"
    of_adapters = Difference(-0.02, (-0.03, -0.01), 0.01, 0.016, None, 1e-5)
    assert verdict(of_adapters, 0.03) == (
        "this adapter answers worse than that one; another seed may not"
    )
    assert verdict(of_adapters, 0.3) == f"cannot tell these adapters apart; {seen}"
