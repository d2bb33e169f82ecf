import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from toplora_train.evaluation.metrics import METRICS, bootstrap_interval
from toplora_train.evaluation.paired import interval
from toplora_train.evaluation.row_scores import mean_over_tasks, other_metric, share_right

ROWS = 80


def names(n=ROWS):
    return [f"q{i}" for i in range(n)]


def random_table(metric, seed):
    """Labels and two runs' similar predictions, of the metric's kind."""
    rng = np.random.default_rng(seed)
    if metric in ("pearson", "spearman"):
        labels = rng.normal(size=ROWS)
        return labels, labels + rng.normal(size=(2, ROWS))
    labels = rng.integers(0, 2 if metric == "f1" else 3, ROWS).astype(float)
    return labels, np.where(rng.random((2, ROWS)) < 0.7, labels, (labels + 1) % 2)


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "pearson", "spearman"])
def test_the_variance_of_a_difference_equals_scipys_paired_bootstrap(metric, seed):
    labels, predicted = random_table(metric, seed)
    measure = METRICS[metric]
    if metric == "accuracy":
        scores = share_right(predicted == labels, names())
    else:
        scores = other_metric(metric, predicted, labels, names())
    oracle = stats.bootstrap(
        (predicted[0], predicted[1], labels),
        lambda a, b, right: measure(b, right) - measure(a, right),
        paired=True,
        vectorized=False,
        n_resamples=500,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    contrast = np.array([-1.0, 1.0])
    assert scores.values == pytest.approx([measure(one, labels) for one in predicted])
    error = np.sqrt(contrast @ scores.covariance @ contrast)
    assert error == pytest.approx(oracle.standard_error, rel=0.12)


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize(
    ("metric", "measure"),
    [
        ("f1", lambda answer, label: metrics.f1_score(label, answer)),
        ("matthews", lambda answer, label: metrics.matthews_corrcoef(label, answer)),
        ("spearman", lambda answer, label: stats.spearmanr(answer, label).statistic),
    ],
)
def test_the_standard_error_is_that_of_other_libraries_metric_and_bootstrap(metric, measure, seed):
    labels, predicted = random_table(metric, seed)
    scores = other_metric(metric, predicted, labels, names())
    oracle = stats.bootstrap(
        (predicted[0], labels),
        measure,
        paired=True,
        vectorized=False,
        n_resamples=200,
        rng=np.random.default_rng(seed),
        method="percentile",
    )
    assert scores.values[0] == pytest.approx(measure(predicted[0], labels))
    assert np.sqrt(scores.covariance[0, 0]) == pytest.approx(oracle.standard_error, rel=0.15)
    low, high = interval(scores, [0])
    assert (low, high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.25 * (high - low))


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_the_interval_of_one_score_equals_scipys_percentile_interval(metric, seed):
    labels, predicted = random_table(metric, seed)
    measure = METRICS[metric]
    low, high = bootstrap_interval(measure, predicted[0], labels, seed=seed)
    oracle = stats.bootstrap(
        (predicted[0], labels),
        measure,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    width = oracle.high - oracle.low
    assert (low, high) == pytest.approx(tuple(oracle), abs=0.1 * width)


def test_the_covariance_of_accuracies_is_that_of_the_rows_over_their_number():
    right = np.random.default_rng(0).random((3, ROWS)) < [[0.4], [0.6], [0.8]]
    scores = share_right(right, names())
    assert scores.covariance == pytest.approx(np.cov(right) / ROWS)
    assert scores.resolution == pytest.approx(1 / ROWS**2)
    assert scores.questions == ROWS


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_rows_of_one_question_count_as_one(metric):
    labels, predicted = random_table("f1", 0)

    def scored(times):
        given, rows = np.repeat(predicted, times, 1), np.repeat(labels, times)
        repeated = [name for name in names() for _ in range(times)]
        if metric == "accuracy":
            return share_right(given == rows, repeated)
        return other_metric(metric, given, rows, repeated)

    alone, fourfold = scored(1), scored(4)
    assert fourfold.questions == alone.questions == ROWS
    assert fourfold.covariance == pytest.approx(alone.covariance, rel=1e-9)


def test_the_bootstrap_is_deterministic():
    labels, predicted = random_table("matthews", 0)
    first, again = (other_metric("matthews", predicted, labels, names()) for _ in range(2))
    assert (first.covariance == again.covariance).all()


def test_the_mean_over_tasks_adds_their_row_variances():
    right = np.random.default_rng(0).random((2, ROWS)) < 0.5
    labels, predicted = random_table("pearson", 0)
    tasks = [share_right(right, names()), other_metric("pearson", predicted, labels, names())]
    mean = mean_over_tasks(tasks)
    assert mean.values == pytest.approx((tasks[0].values + tasks[1].values) / 2)
    assert mean.covariance == pytest.approx((tasks[0].covariance + tasks[1].covariance) / 4)
    assert (mean.lowest, mean.questions) == (-0.5, ROWS)
    assert mean_over_tasks(tasks[:1]) is tasks[0]
    with pytest.raises(ValueError, match="no task"):
        mean_over_tasks([])
