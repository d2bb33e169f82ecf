"""Where the records of the steps go: the terminal, ``metrics.jsonl``, the tracker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from toplora_train.report.display import TrainingDisplay
from toplora_train.report.metrics_file import MetricsFile
from toplora_train.report.tracker import Tracker
from toplora_train.train.record import StepRecord


@contextmanager
def metric_logging(
    run_dir: Path,
    *,
    total_steps: int,
    resumed_step: int | None,
    tracker: Tracker,
    console: Console,
    silent: bool,
    judged: bool = False,
) -> Iterator[Callable[[StepRecord], None]]:
    """Inside, each record that is handed over is shown, and kept if it is a logged one.

    Args:
        run_dir: where ``metrics.jsonl`` is.
        total_steps: of the whole run.
        resumed_step: the step that a resumed run goes on from.
        tracker: where metrics go besides.
        console: where they are shown.
        silent: whether to do nothing of it, in all processes but the first.
        judged: whether the validation loss is shown elsewhere, by who chooses the adapter.
    """
    if silent:
        yield lambda _record: None
        return
    with (
        MetricsFile(run_dir / "metrics.jsonl", resumed_step=resumed_step) as metrics,
        TrainingDisplay(
            total_steps, console=console, start_step=resumed_step or 0, judged=judged
        ) as display,
    ):

        def watch(record: StepRecord) -> None:
            line = asdict(record)
            line |= line.pop("training_stats")
            display.update(line)
            if record.logged:
                metrics.append(line)
                numbers = {k: v for k, v in line.items() if not isinstance(v, str | bool)}
                tracker.log(numbers, record.step)

        yield watch
