"""No tracker stops a run, and a missing package is said before the run."""

import logging
import os
import signal
from pathlib import Path

import pytest

from toplora_train.config.errors import Interrupted, UserError
from toplora_train.config.schema import TrackerSettings
from toplora_train.launch.command import signals_restored
from toplora_train.report.trackers.base import (
    Guarded,
    NoTracker,
    TrackedRun,
    open_tracker,
    validate_tracker,
)
from toplora_train.train.signals import interrupt_at_once


def fails(*_: object) -> None:
    raise OSError(28, "No space\nleft")


class FailsToLog(NoTracker):
    log = fails


@pytest.mark.parametrize("start", [fails, FailsToLog])
def test_a_failing_tracker_gives_one_warning_and_stops_nothing(start, caplog):
    with caplog.at_level(logging.WARNING):
        tracker = Guarded("mytracker", start)
        for step in (1, 2):
            tracker.log({"loss": 1.0}, step)
        tracker.finish({}, [])
    (line,) = caplog.messages
    assert line.startswith("mytracker failed (OSError")
    assert "training continues" in line
    assert "\n" not in line


def test_a_signal_while_a_tracker_starts_stops_the_run():
    def start() -> NoTracker:
        os.kill(os.getpid(), signal.SIGTERM)
        return NoTracker()

    with signals_restored():
        interrupt_at_once()
        with pytest.raises(Interrupted, match="signal 15"):
            Guarded("mytracker", start)


def test_none_does_nothing(tmp_path: Path):
    tracker = open_tracker(TrackedRun(tmp_path, TrackerSettings(name="none"), {}))
    tracker.log({"loss": 1.0}, step=1)
    tracker.finish({}, [])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_refused_with_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"tracker=trackio needs .*toplora-train\[trackers\]"):
        validate_tracker("trackio")
    validate_tracker("none")
