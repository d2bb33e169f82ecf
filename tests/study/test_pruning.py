"""Which jobs of a search are ended early, and how."""

import json
import os
import signal
import time

import pytest

from tests.config.example import run_config
from toplora_train.study import pruning as module
from toplora_train.study.folder import Study
from toplora_train.study.pruning import EPOCH, curve_of, pruning, why_hopeless

HALF, WHOLE = EPOCH // 2, EPOCH
COMPLETED = [(float(n), {HALF: n + 1.0, WHOLE: float(n)}) for n in range(5)]  # median 3 at half


@pytest.mark.parametrize(
    ("curve", "hopeless"),
    [
        ({HALF: 2.9}, False),
        ({HALF: 3.1}, True),
        ({HALF + 1: 99.0}, False),
        ({HALF: 3.1, WHOLE: 1.5}, False),
    ],
)
def test_a_job_worse_than_the_median_at_the_same_epoch_is_hopeless(curve, hopeless):
    pytest.importorskip("optuna")
    assert bool(why_hopeless(curve, COMPLETED)) is hopeless


def test_the_first_jobs_are_not_pruned():
    pytest.importorskip("optuna")
    assert why_hopeless({HALF: 99.0}, COMPLETED[:4]) is None
    assert why_hopeless({HALF: 99.0}, COMPLETED) == (
        "worse than the median of 5 completed jobs at epoch 0.5"
    )


@pytest.fixture
def planned(tmp_path):
    study = Study(tmp_path)
    jobs = study.place([(f"seed={seed}", run_config(seed=seed)) for seed in range(6)])
    study.write({"time": "now"}, jobs, {})
    for job in study.jobs():
        study.run_dir(job).mkdir()
    return study, study.jobs()


def validate(study, job, *losses):
    rows = [{"epoch": n / 2, "validation_loss": loss} for n, loss in enumerate(losses, 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (study.run_dir(job) / "metrics.jsonl").write_text(text)


def test_the_curve_is_that_of_the_metric_that_selects_the_checkpoint(planned):
    study, (job, *_) = planned
    config = run_config()
    assert curve_of(study, job, config) == {}
    validate(study, job, None, 2.5)
    assert curve_of(study, job, config) == {WHOLE: 2.5}
    path = study.run_dir(job) / module.JUDGED
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"step": 10, "epoch": 0.5, "value": 0.7}]))
    assert curve_of(study, job, config) == {HALF: 0.7}
    report = {"train": {"selection": {"epochs": [{"step": 30, "epoch": 1, "value": 0.9}]}}}
    (study.run_dir(job) / "report.json").write_text(json.dumps(report))
    assert curve_of(study, job, config) == {WHOLE: 0.9}


def test_a_loss_logged_before_the_first_value_of_a_metric_is_not_taken_for_one(planned):
    study, (job, *_) = planned
    config = run_config(trainer__select="best", trainer__select_by="metric")
    validate(study, job, 0.2)  # written before the held-out rows are answered
    assert curve_of(study, job, config) == {}


@pytest.mark.parametrize("loss", [0.5, 9.0])
def test_a_hopeless_job_gets_the_signal_that_lets_it_save(planned, monkeypatch, loss):
    pytest.importorskip("optuna")
    monkeypatch.setattr(module, "SECONDS", 0.01)
    study, (*completed, job) = planned
    for n, one in enumerate(completed):
        validate(study, one, n + 1.0, float(n))
        study.record(one, "ended", exit_code=0, error=None, seconds=1.0, value=float(n))
    validate(study, job, loss)
    received = []
    with pruning(study, job, run_config(trainer__select="last")) as reasons:
        signal.signal(signal.SIGTERM, lambda *_: received.append(1))  # as the job's parent does
        until = time.monotonic() + (20 if loss > 1 else 0.5)
        while not received and time.monotonic() < until:
            time.sleep(0.01)
    assert bool(reasons) is bool(received) is (loss > 1)


def test_a_signal_that_is_not_the_pruners_still_ends_the_process(planned):
    study, jobs = planned
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        with pruning(study, jobs[0], run_config()):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received
