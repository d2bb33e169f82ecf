"""Log step records to the terminal, ``metrics.jsonl`` and the tracker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from toplora_train.report.display import TrainingDisplay
from toplora_train.report.metrics_file import MetricsFile
from toplora_train.report.trackers.base import Tracker
from toplora_train.train.record import StepRecord


@dataclass(frozen=True)
class Monitor:
    """Where a run's progress goes besides ``metrics.jsonl``; silent on all ranks but 0."""

    tracker: Tracker
    console: Console
    silent: bool = False


@contextmanager
def metric_logging(
    run_dir: Path,
    monitor: Monitor,
    *,
    total_steps: int,
    resumed_step: int | None,
    judged: bool = False,
) -> Iterator[Callable[[StepRecord], None]]:
    """Yields a function that shows each step record, and writes those that are to be logged.

    Args:
        run_dir: The folder of ``metrics.jsonl``.
        monitor: Where the metrics also go; if it is silent, nothing is written.
        total_steps: The steps of the whole run.
        resumed_step: The step a resumed run continues from.
        judged: Whether model selection shows the validation loss, so the display need not.
    """
    if monitor.silent:
        yield lambda _record: None
        return
    with (
        MetricsFile(run_dir / "metrics.jsonl", resumed_step=resumed_step) as metrics,
        TrainingDisplay(
            total_steps, console=monitor.console, start_step=resumed_step or 0, judged=judged
        ) as display,
    ):

        def log(record: StepRecord) -> None:
            line = asdict(record)
            line |= line.pop("training_stats")
            display.update(line)
            if record.logged:
                metrics.append(line)
                numbers = {k: v for k, v in line.items() if not isinstance(v, str | bool)}
                monitor.tracker.log(numbers, record.step)

        yield log
