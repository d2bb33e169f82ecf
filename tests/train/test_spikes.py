import random

import pytest

from toplora_train.train.spikes import SETTLED, LossTrend


def after(losses: list[float], trend: LossTrend | None = None) -> LossTrend:
    trend = trend or LossTrend()
    for loss in losses:
        trend = trend.after(loss, trend.steps + 1)
    return trend


def noisy(steps: int) -> list[float]:
    rng = random.Random(1)
    return [3.0 * 0.99**step + rng.gauss(0, 0.1) for step in range(steps)]


def test_a_noisily_falling_loss_has_no_spikes(caplog):
    assert after(noisy(200)).spikes == 0
    assert caplog.text == ""


def test_a_spike_is_counted_and_logged(caplog):
    trend = after([*noisy(60), 9.0])
    assert trend.spikes == 1
    assert "loss spike: 9 at step 61" in caplog.text


def test_a_spike_does_not_hide_the_next():
    assert after([*noisy(60), 9.0, 9.0]).spikes == 2


def test_the_first_steps_are_never_spikes():
    assert after([1.0, 9.0, *[1.0] * (SETTLED - 3), 9.0]).spikes == 0


def test_the_trend_of_few_losses_is_their_mean_and_variance():
    trend = after([1.0, 2.0, 6.0])
    assert (trend.mean, trend.variance) == (pytest.approx(3.0), pytest.approx(14 / 3))
