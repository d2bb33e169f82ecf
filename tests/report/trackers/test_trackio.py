"""Trackio's own database has what was logged."""

from pathlib import Path

import pytest

from toplora_train.config.schema import TrackerSettings
from toplora_train.report.trackers.base import TrackedRun
from toplora_train.report.trackers.trackio import open_run


@pytest.mark.slow  # it starts a server of its own
def test_the_database_has_every_logged_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trackio = pytest.importorskip("trackio")
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    tracker = open_run(TrackedRun(tmp_path / "run", TrackerSettings(name="trackio"), {"r": 8}))
    for step in (1, 2):
        tracker.log({"loss": 1 / step}, step)
    tracker.finish({"average": 0.5}, [])
    assert trackio is not None
    rows = storage.get_logs("toplora-train", "run")
    assert [row["loss"] for row in rows if "loss" in row] == [1.0, 0.5]
