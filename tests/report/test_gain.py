from pathlib import Path

import numpy as np
import pytest

from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import Prediction, write_predictions
from toplora_train.report.gain import gain, gain_text, read_gain


def answers(right):
    return [Prediction(f"r{i}", f"{i}?", "", None, "1", bool(one)) for i, one in enumerate(right)]


def test_the_interval_is_that_of_the_paired_differences():
    rng = np.random.default_rng(0)
    base = rng.random(400) < 0.5
    tuned = base | (rng.random(400) < 0.2)
    found = gain({"a": (answers(base), answers(tuned))})
    difference = tuned.astype(float) - base
    se = difference.std(ddof=1) / 20
    assert found["value"] == pytest.approx(difference.mean())
    assert found["ci95"] == pytest.approx(
        [difference.mean() - 1.96 * se, difference.mean() + 1.96 * se], abs=0.005
    )


def test_correlated_answers_give_a_narrower_interval():
    base, tuned = np.arange(200) < 100, np.arange(200) < 108
    low, _ = gain({"a": (answers(base), answers(tuned))})["ci95"]
    assert low > 0
    assert 0.54 - 0.50 < 1.96 * (0.54 * 0.46 / 200 + 0.5 * 0.5 / 200) ** 0.5  # as if independent


def test_over_several_tasks_it_is_the_unweighted_mean():
    small = (answers([0, 0, 0, 0]), answers([1, 1, 0, 0]))
    large = (answers([1] * 40), answers([1] * 40))
    found = gain({"small": small, "large": large})
    assert found["value"] == pytest.approx(0.25)
    assert found["tasks"]["small"]["value"] == pytest.approx(0.5)
    low, high = found["tasks"]["large"]["ci95"]
    assert low == pytest.approx(-high)
    assert 0 < high < 0.06  # 40 equal answers are not all answers


def test_it_is_read_from_stored_predictions_of_both_models(tmp_path: Path):
    write_predictions(tmp_path / "a.jsonl", answers([1, 1, 0]))
    assert read_gain(tmp_path, ["a"]) is None
    write_predictions(tmp_path / "a.base.jsonl", answers([1, 0, 0]))
    assert read_gain(tmp_path, ["a"])["value"] == pytest.approx(1 / 3)
    assert read_gain(tmp_path, []) is None


def test_predictions_for_different_rows_are_an_error():
    with pytest.raises(UserError, match="tuned model on a are for different rows"):
        gain({"a": (answers([1]), answers([1, 0]))})


def test_the_text_says_that_the_intervals_are_paired():
    found = gain({"a": (answers([0] * 50), answers([1] * 50))})
    assert gain_text({"gain": found}).startswith(
        "Gain over the base model in points: a +100.0 (+96.0 to +100.0). Both models answered "
        "the same rows"
    )
    assert gain_text({"gain": None}) == gain_text({}) == ""
