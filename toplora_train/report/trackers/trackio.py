"""Trackio: a local dashboard, ``trackio show``, in ``TRACKIO_DIR`` or the hub's cache folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from toplora_train.report.trackers.base import RunTracker, TrackedRun


def open_run(run: TrackedRun) -> TrackioTracker:
    """Start a run, or continue the one of that name."""
    import trackio  # an extra

    return TrackioTracker(
        trackio.init(
            project=run.settings.project,
            name=run.name,
            group=run.settings.group,
            config=dict(run.config),
            resume="allow" if run.resumed_step else "never",
            embed=False,
        )
    )


class TrackioTracker(RunTracker):
    """A run of Trackio."""

    def finish(self, summary: Mapping[str, float], _files: Sequence[Path], /) -> None:
        """Record the final metrics; the reports stay in the run directory."""
        import trackio

        self._run.log(dict(summary))
        trackio.finish()  # the run's own method is called a second time as Python exits
