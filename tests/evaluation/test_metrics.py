"""scikit-learn and scipy are the oracles."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from toplora_train.config.errors import UserError
from toplora_train.evaluation import metrics
from toplora_train.evaluation.metrics import METRICS, bootstrap_interval, measure, validate_metric

CLASS_ORACLES = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": lambda right, predicted: sklearn_metrics.f1_score(right, predicted, zero_division=0.0),
    "macro_f1": lambda right, predicted: sklearn_metrics.f1_score(
        right, predicted, average="macro", zero_division=0.0
    ),
    "matthews": sklearn_metrics.matthews_corrcoef,
}
NUMBER_ORACLES = {
    "pearson": lambda right, predicted: stats.pearsonr(right, predicted).statistic,
    "spearman": lambda right, predicted: stats.spearmanr(right, predicted).statistic,
}


def drawn_classes(seed: int, rows: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    right = generator.integers(0, classes, rows)
    kept = generator.random(rows) < 0.6
    predicted = np.where(kept, right, generator.integers(0, classes, rows))
    return predicted.astype(float), right.astype(float)


def drawn_numbers(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    right = np.round(generator.uniform(0, 5, rows), 1)  # rounded, for many ties
    return np.round(0.7 * right + generator.normal(0, 1, rows), 2), right


@pytest.mark.parametrize("name", CLASS_ORACLES)
@pytest.mark.filterwarnings("ignore:A single label was found")  # scikit-learn, with two rows
@pytest.mark.parametrize("rows", [2, 7, 277, 1043])
def test_binary_metrics_equal_scikit_learns(name: str, rows: int):
    for seed in range(20):
        predicted, right = drawn_classes(seed, rows)
        ours, oracle = METRICS[name](predicted, right), CLASS_ORACLES[name](right, predicted)
        assert ours == pytest.approx(oracle, abs=1e-12)


def test_multiclass_accuracy_and_matthews_equal_scikit_learns():
    for seed in range(20):
        predicted, right = drawn_classes(seed, 300, classes=3)
        for name in ("accuracy", "matthews"):
            oracle = CLASS_ORACLES[name](right, predicted)
            assert METRICS[name](predicted, right) == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("name", NUMBER_ORACLES)
@pytest.mark.parametrize("rows", [3, 50, 1500])
def test_correlations_equal_scipys(name: str, rows: int):
    for seed in range(20):
        predicted, right = drawn_numbers(seed, rows)
        oracle = NUMBER_ORACLES[name](right, predicted)
        assert METRICS[name](predicted, right) == pytest.approx(oracle, abs=1e-12)


def test_a_constant_prediction_scores_zero_instead_of_nan():
    right = np.array([0.0, 1.0, 1.0, 0.0])
    for name in ("matthews", "pearson", "spearman"):
        assert METRICS[name](np.full(4, 1.0), right) == 0.0
        assert METRICS[name](np.full(4, 0.1), right) == 0.0
    assert METRICS["f1"](np.zeros(4), right) == 0.0


def test_correlation_of_numbers_far_from_zero_equals_scipys():
    predicted, right = drawn_numbers(0, 40)
    oracle = stats.pearsonr(right + 1e4, predicted).statistic
    assert METRICS["pearson"](predicted, right + 1e4) == pytest.approx(oracle, abs=1e-9)


def test_the_interval_of_an_accuracy_is_wilsons():
    predicted, right = drawn_classes(1, 200)
    measured = measure("accuracy", predicted, right)
    oracle = stats.binomtest(int((predicted == right).sum()), 200).proportion_ci(method="wilson")
    assert measured.ci95 == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize("name", ["f1", "matthews"])
def test_the_interval_of_another_metric_equals_scipys_bootstrap(name: str):
    predicted, right = drawn_classes(2, 400)
    oracle = stats.bootstrap(
        (predicted, right),
        METRICS[name],
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=0,
    ).confidence_interval
    measured = measure(name, predicted, right)
    assert measured.ci95 == pytest.approx((oracle.low, oracle.high), abs=0.01)
    assert measured.ci95[0] < measured.value < measured.ci95[1]


def test_the_interval_of_a_correlation_agrees_with_fishers():
    generator = np.random.default_rng(3)
    right = generator.normal(size=800)
    predicted = 0.6 * right + 0.8 * generator.normal(size=800)
    value = measure("pearson", predicted, right)
    middle, half = math.atanh(value.value), 1.96 / math.sqrt(797)
    fisher = math.tanh(middle - half), math.tanh(middle + half)
    assert value.ci95 == pytest.approx(fisher, abs=0.012)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    predicted, right = drawn_classes(4, 60)
    first, again, other = (
        bootstrap_interval(METRICS["matthews"], predicted, right, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_no_rows_or_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="0 predictions for 0 labels"):
        measure("accuracy", np.array([]), np.array([]))
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        measure("accuracy", np.array([1.0]), np.array([1.0, 0.0]))


def test_a_metric_of_ones_own_must_be_a_score_and_is_tried_on_a_constant(monkeypatch):
    labels = np.array([0.0, 4.0, 8.0])
    error = {"error": lambda predicted, right: -float(np.mean(np.abs(predicted - right)))}
    undefined = {"undefined": lambda *_: float("nan")}
    monkeypatch.setattr(metrics, "METRICS", {**METRICS, **error, **undefined})
    for try_it in (
        lambda name: validate_metric(name, labels),
        lambda name: measure(name, labels[::-1], labels),
    ):
        with pytest.raises(UserError, match=r"metric error is -.*between -1 and 1.*scale it"):
            try_it("error")
        with pytest.raises(UserError, match=r"metric undefined is NaN.*return 0"):
            try_it("undefined")
    for name in METRICS:
        validate_metric(name, labels)
