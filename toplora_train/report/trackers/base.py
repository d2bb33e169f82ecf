"""What an experiment tracker does, and the guard that keeps a failing one from stopping a run.

A tracker is a module of this package, named as ``tracker=NAME``, whose ``open_run`` starts a run
and returns a :class:`Tracker`. Its package may be an extra: it is imported in ``open_run`` only.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from toplora_train.config.errors import UserError
from toplora_train.config.schema import TrackerSettings

logger = logging.getLogger(__name__)

EXTRA = "pip install 'toplora-train[trackers]'"


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it.

    Attributes:
        folder: The run directory.
        settings: Project, entity and group.
        config: The resolved configuration.
        resumed_step: The step that the run resumes from; 0 for a new run.
        title: The run's name, if it is not that of the folder.
    """

    folder: Path
    settings: TrackerSettings
    config: Mapping[str, Any]
    resumed_step: int = 0
    title: str = ""

    @property
    def name(self) -> str:
        """The run's name: its title, or else that of its folder."""
        return self.title or self.folder.name


class Tracker(Protocol):
    """Receives the metrics of a run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""

    def finish(self, summary: Mapping[str, float], files: Sequence[Path], /) -> None:
        """Record the final metrics and the reports, and wait until they are stored."""


class RunTracker:
    """A tracker's own run, which takes metrics by step.

    Args:
        run: The run, an object of the tracker's package.
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""
        self._run.log(dict(metrics), step=step)


class NoTracker:
    """Does nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, float], files: Sequence[Path], /) -> None:
        """Do nothing."""


class Guarded:
    """A tracker whose errors never reach the run; the first one is logged as a warning."""

    def __init__(self, name: str, open_run: Callable[[], Tracker]) -> None:
        self._name = name
        self._failed = False
        self._tracker: Tracker = NoTracker()

        def start() -> None:
            self._tracker = open_run()

        self._try(start)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""
        self._try(lambda: self._tracker.log(metrics, step))

    def finish(self, summary: Mapping[str, float], files: Sequence[Path], /) -> None:
        """Record the final metrics and the reports."""
        self._try(lambda: self._tracker.finish(summary, files))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # any error: a tracker must never stop a run
            if not self._failed:
                self._failed = True
                logger.warning(
                    "%s failed (%s: %s); training continues, and metrics.csv has all metrics",
                    self._name,
                    type(error).__name__,
                    " ".join(str(error).split()),
                )


def open_tracker(run: TrackedRun) -> Tracker:
    """Start the run's tracker.

    Raises:
        UserError: See :func:`validate_tracker`.
    """
    name = run.settings.name
    if name == "none":
        return NoTracker()
    validate_tracker(name)
    module = importlib.import_module(f"{__package__}.{name}")
    return Guarded(name, lambda: cast(Tracker, module.open_run(run)))


def validate_tracker(name: str) -> None:
    """Check that a tracker's package is installed.

    Raises:
        UserError: It is not; with the command that installs it.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"tracker={name} needs the package {name}: {EXTRA}")
