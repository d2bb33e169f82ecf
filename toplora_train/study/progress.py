"""How far the jobs of a launch are: a live table on a terminal, a line per job elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from toplora_train.config.errors import UserError
from toplora_train.config.reading import json_lines
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import TrainerSettings
from toplora_train.launch.rundir import CONFIG
from toplora_train.report.jobs import Job
from toplora_train.report.numbers import counted, percent, readable_seconds, shortened
from toplora_train.report.sweep import LONGEST, STYLES
from toplora_train.study.folder import Study

SECONDS = 1.0  # between two looks at the files
TAIL = 8192  # bytes: more than a line of metrics.jsonl
ENDED = ("completed", "failed", "interrupted", "pruned")


class Progress:
    """Shows jobs while the launcher runs them, from what they write to their folders.

    Args:
        study: Their study.
        jobs: The jobs being launched.
        parallel: Whether they run in other processes, which print to files of their own.
    """

    def __init__(self, study: Study, jobs: Sequence[Job], *, parallel: bool) -> None:
        self._study = study
        self._digests = {job.digest for job in jobs}
        self._said: dict[str, str] = {}
        self._trainers: dict[str, TrainerSettings] = {}
        # Of the true standard output, which jobs of this process may redirect meanwhile.
        console = Console(file=sys.stdout)
        self._live: Live | None = None
        self._rows = console.height - 6
        if console.is_terminal:
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=1)
        self._lines = parallel and self._live is None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        if self._lines:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._lines:
            self._over.set()
            self._thread.join()
            self._say_changes()

    def _jobs(self) -> list[Job]:
        return [job for job in self._study.jobs() if job.digest in self._digests]

    def _follow(self) -> None:
        while not self._over.wait(SECONDS):
            self._say_changes()

    def _say_changes(self) -> None:
        jobs = self._jobs()
        for number, job in enumerate(jobs, 1):
            if job.status in ("waiting", self._said.get(job.digest)):
                continue
            self._said[job.digest] = job.status
            took = "" if job.seconds is None else f" in {readable_seconds(job.seconds)}"
            reason = f": {job.error}" if job.error else ""
            line = f"job {number} of {len(jobs)}: {job.title}: {job.status}{took}{reason}"
            print(line, flush=True)  # noqa: T201  (for the user)

    def _table(self) -> Table:
        jobs = self._jobs()
        ended = [job for job in jobs if job.status in ENDED]
        counts = [f"{len(ended)} of {counted(len(jobs), 'job')} ended"]
        failed = sum(job.status == "failed" for job in ended)
        counts += [f"{failed} failed"] if failed else []
        table = Table(caption=", ".join(counts), caption_justify="left")
        table.add_column("job", overflow="fold")
        table.add_column("state")
        for heading in ("step", "loss", "score", "time"):
            table.add_column(heading, justify="right")
        for job in _those_that_fit(jobs, self._rows):
            state = Text(job.status, STYLES.get(job.status, ""))
            table.add_row(Text(shortened(job.title, LONGEST)), state, *self._numbers(job))
        return table

    def _numbers(self, job: Job) -> list[str]:
        """Step, loss, score so far and time left; the time taken once it has ended."""
        run_dir = self._study.run_dir(job)
        row = _last_line(run_dir / "metrics.jsonl") if job.status != "waiting" else None
        if row is None:
            return ["", "", "", ""]
        score = row.get("validation_loss")
        shown = "" if score is None else f"{score:.4f} held out"
        if job.status in ENDED:
            average = self._study.report(job).get("average")
            shown = shown if average is None else percent(average)
            time = "" if job.seconds is None else readable_seconds(job.seconds)
        else:
            time = self._time_left(job, row)
        return [f"{row['step']:,}", f"{row['loss']:.4f}", shown, time]

    def _time_left(self, job: Job, row: dict[str, Any]) -> str:
        trainer = self._trainer(job)
        if trainer is None:
            return ""
        if trainer.max_steps:
            share = row["step"] / trainer.max_steps
        elif trainer.max_tokens:
            share = row["tokens"] / trainer.max_tokens
        else:
            share = row["epoch"] / trainer.epochs
        if share >= 1:
            return "evaluating"
        return f"{readable_seconds(row['seconds'] * (1 - share) / share)} left" if share else ""

    def _trainer(self, job: Job) -> TrainerSettings | None:
        if job.digest not in self._trainers:
            try:
                config = read_config(self._study.run_dir(job) / CONFIG)
            except UserError:  # not written yet
                return None
            self._trainers[job.digest] = config.trainer
        return self._trainers[job.digest]


def _those_that_fit(jobs: Sequence[Job], rows: int) -> list[Job]:
    """At most so many jobs: running ones, then those that failed, are waiting, are completed."""
    if len(jobs) <= max(rows, 1):
        return list(jobs)
    order = ["running", "failed", "interrupted", "waiting", "pruned", "completed"]
    return sorted(jobs, key=lambda job: order.index(job.status))[: max(rows, 1)]


def _last_line(path: Path) -> dict[str, Any] | None:
    """The last complete line of a metrics file, if there is one."""
    try:
        rows = [row for _, row in json_lines(path, last=TAIL) if isinstance(row, dict)]
        return rows[-1] if rows else None
    except OSError:
        return None
