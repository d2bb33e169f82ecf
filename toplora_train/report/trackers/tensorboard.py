"""TensorBoard: event files in ``RUN/tensorboard``; ``tensorboard --logdir RUNS`` shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toplora_train.report.trackers.base import TrackedRun


def open_run(run: TrackedRun) -> TensorBoardTracker:
    """Open a new event file.

    A resumed run's says that it starts after the resumed step, so that TensorBoard drops the steps
    that the interrupted run took after its last checkpoint.
    """
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(run.folder / "tensorboard"))
    if run.resumed_step:
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        writer.add_event(
            event_pb2.Event(wall_time=time.time(), step=run.resumed_step + 1, session_log=started)
        )
    return TensorBoardTracker(writer, step=run.resumed_step)


class TensorBoardTracker:
    """Writes scalars to an event file.

    Args:
        writer: TensorBoard's.
        step: The step that the run starts from; its final metrics are of this one if it resumes at
            its end.
    """

    def __init__(self, writer: Any, *, step: int) -> None:
        self._writer = writer
        self._step = step

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._step = step
        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
            if value is not None and name != "step"
        ]
        self._writer.add_event(
            event_pb2.Event(
                wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)
            )
        )

    def finish(self, summary: Mapping[str, float], _files: Sequence[Path], /) -> None:
        """Record the final metrics at the last step; the reports lie beside the event files."""
        self.log(summary, self._step)
        self._writer.close()
