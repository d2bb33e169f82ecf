"""The estimate of the time left is accurate whether tokens or rows dominate the cost."""

import pytest

from toplora_train.report.remaining import TimeLeft

LENGTHS = sorted((20 + 7 * index % 181 for index in range(640)), reverse=True)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("toplora_train.report.remaining.time.monotonic", lambda: now[0])
    return now


def worst_estimate(clock, *, per_token, per_row, batch=32, after=2):
    """The largest relative error of the estimates made after each batch."""
    total = sum(per_token * length + per_row for length in LENGTHS)
    left, worst = TimeLeft(), 0.0
    for start in range(0, len(LENGTHS), batch):
        rows = LENGTHS[start : start + batch]
        clock[0] += sum(per_token * length + per_row for length in rows)
        for length in rows:
            left.add(1, length)
            clock[0] += 1e-5
        rest = LENGTHS[start + batch :]
        truth = total - clock[0]
        said = left.seconds(len(rest), sum(rest))
        if rest and start // batch + 1 >= after:
            worst = max(worst, abs(said - truth) / truth)
    return worst


@pytest.mark.parametrize(
    ("per_token", "per_row"),
    [(0.02, 0.0), (0.0, 2.0), (0.01, 1.0)],
    ids=["read", "written", "both"],
)
def test_it_is_accurate_from_the_second_batch_on_for_any_cost(clock, per_token, per_row):
    assert worst_estimate(clock, per_token=per_token, per_row=per_row) < 0.02


@pytest.mark.parametrize(("per_token", "per_row"), [(0.02, 0.0), (0.0, 2.0)])
def test_after_one_batch_it_is_off_by_less_than_half(clock, per_token, per_row):
    assert worst_estimate(clock, per_token=per_token, per_row=per_row, after=1) < 0.5


def test_it_counts_down_between_batches_and_never_below_zero(clock):
    left = TimeLeft()
    assert left.seconds(64, 640) is None
    clock[0] = 60.0
    for _ in range(32):
        left.add(1, 10)
    assert left.seconds(64, 640) == pytest.approx(120)
    clock[0] = 100.0
    assert left.seconds(64, 640) == pytest.approx(80)
    clock[0] = 1000.0
    assert left.seconds(64, 640) == 0


def test_it_adapts_to_slower_batches(clock):
    """Answers verified in one forward pass come first; the rest have to be decoded."""
    left = TimeLeft()
    for cost in [1.0] * 20 + [10.0] * 12:
        clock[0] += cost
        left.add(32, 3200)
    assert left.seconds(320, 32000) == pytest.approx(100, rel=0.25)
