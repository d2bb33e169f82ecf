import math
from itertools import pairwise

import pytest

from tests.report.made_up import made_up_metrics
from toplora_train.report.curves import MOST_ROWS, curve_table, smoothed, thinned, training_curves


def test_a_run_without_a_logged_step_has_no_curves():
    assert training_curves([], "token") is None


def test_every_quantity_that_was_logged_has_a_chart_and_others_have_none():
    metrics = made_up_metrics(5, validation_loss=0.5, update_norm_largest=0.1)
    charts = {
        chart["title"]: chart["lines"] for chart in training_curves(metrics, "label")["charts"]
    }
    assert list(charts) == [
        "loss per label",
        "learning rate",
        "gradient norm",
        "tokens per second",
        "memory (GiB)",
        "size of the update by module",
    ]
    names = [line["name"] for line in charts["loss per label"]]
    assert names == ["training", "smoothed", "validation"]
    assert charts["loss per label"][2]["values"] == [None] * 4 + [0.5]
    assert charts["memory (GiB)"][0]["values"] == [2.0] * 5


def test_resumes_and_spikes_are_marked_at_their_rows():
    metrics = made_up_metrics(30)
    metrics[7]["loss_spikes"] = 1
    metrics[20]["resumed_after"] = 200
    marks = training_curves(metrics, "token")["marks"]
    assert [(mark["at"], mark["text"]) for mark in marks] == [
        (7, "loss spike"),
        (20, "resumed after step 200"),
    ]


@pytest.mark.parametrize(
    ("seconds", "unit", "last"), [(120.0, "s", 120.0), (600.0, "min", 10.0), (36_000.0, "h", 10.0)]
)
def test_time_is_in_a_unit_of_its_length(seconds, unit, last):
    found = training_curves(made_up_metrics(3, seconds=seconds), "token")
    assert found["time_unit"] == unit
    assert found["time"][-1] == last


def test_smoothing_is_the_weighted_mean_of_all_values_so_far_and_skips_nan():
    values = [3.0, 1.0, None, 2.0] * 20
    decay = 1 - 1 / 4  # 80 values, a twentieth of them
    expected, seen = [], []
    for value in values:
        if value is not None:
            seen.append(value)
        weights = [decay ** (len(seen) - 1 - at) for at in range(len(seen))]
        mean = math.fsum(w * v for w, v in zip(weights, seen, strict=True)) / math.fsum(weights)
        expected.append(None if value is None else pytest.approx(mean))
    assert smoothed(values) == expected
    assert smoothed([2.0] * 50) == [pytest.approx(2.0)] * 50


def test_thinning_keeps_first_last_and_every_marked_row():
    metrics = made_up_metrics(1000)
    metrics[333]["loss_spikes"] = 2
    metrics[501]["resumed_after"] = 5010
    metrics[777]["validation_loss"] = 0.1
    kept = thinned(metrics, 100)
    assert {0, 333, 501, 777, 999} <= set(kept)
    assert kept == sorted(set(kept))
    assert len(kept) <= 100
    assert max(b - a for a, b in pairwise(kept)) < 30
    assert thinned(metrics[:50], 100) == list(range(50))


def test_the_table_has_every_numeric_metric_and_no_text():
    metrics = made_up_metrics(500, update_norm_largest=0.1, update_norm_largest_layer="q_proj")
    table = curve_table(metrics)
    assert len(table["rows"]) <= MOST_ROWS
    assert table["rows"][-1] is metrics[-1]
    assert "update_norm_largest" in table["keys"]
    assert "update_norm_largest_layer" not in table["keys"]
