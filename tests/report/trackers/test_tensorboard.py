"""Event files are read back by TensorBoard's own reader."""

from pathlib import Path

import pytest

from toplora_train.config.schema import TrackerSettings
from toplora_train.report.trackers.base import TrackedRun
from toplora_train.report.trackers.tensorboard import open_run

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
SETTINGS = TrackerSettings(name="tensorboard")


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    read = accumulator.EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return [(event.step, round(event.value, 4)) for event in read.Scalars(tag)]


def test_every_metric_is_a_scalar_at_its_step(tmp_path: Path):
    tracker = open_run(TrackedRun(tmp_path, SETTINGS, {}))
    for step in (1, 2, 3):
        tracker.log({"step": step, "loss": 1 / step, "validation_loss": None}, step)
    tracker.finish({"rte/accuracy": 0.5}, [])
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert scalars(tmp_path, "rte/accuracy") == [(3, 0.5)]


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(tmp_path: Path):
    killed = open_run(TrackedRun(tmp_path, SETTINGS, {}))
    for step in (1, 2, 3):
        killed.log({"loss": 9.0}, step)
    killed.finish({}, [])
    resumed = open_run(TrackedRun(tmp_path, SETTINGS, {}, resumed_step=1))
    for step in (2, 3, 4):
        resumed.log({"loss": 5.0}, step)
    resumed.finish({}, [])
    assert scalars(tmp_path, "loss") == [(1, 9.0), (2, 5.0), (3, 5.0), (4, 5.0)]


def test_the_final_metrics_of_a_run_resumed_at_its_end_are_of_its_last_step(tmp_path: Path):
    tracker = open_run(TrackedRun(tmp_path, SETTINGS, {}, resumed_step=4))
    tracker.finish({"rte/accuracy": 0.5}, [])
    assert scalars(tmp_path, "rte/accuracy") == [(4, 0.5)]
