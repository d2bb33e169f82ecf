"""The jobs of a sweep: a line per job as it ends, one table and one exit code at the end.

The lines are written to ``jobs.jsonl`` in the sweep's folder, so they include jobs that a Hydra
launcher ran in another process or on another machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from toplora_train.config.sweep import JOBS
from toplora_train.launch.outcome import read_report, write_failure
from toplora_train.launch.parent import JobResult
from toplora_train.launch.worker import CRASHED, DONE, USER_ERROR


@dataclass(frozen=True)
class Job:
    """One finished or failed job of a sweep."""

    number: int
    overrides: str
    run_dir: Path
    exit_code: int
    error: str | None


def record_job(sweep_dir: Path, number: int, overrides: str, result: JobResult) -> None:
    """Record a finished job; several processes may do so at the same time."""
    refused_before_it_started = result.error is not None and not read_report(result.run_dir)
    if refused_before_it_started and result.run_dir.is_dir():
        write_failure(
            result.run_dir,
            status="failed",
            error=str(result.error),
            error_type="UserError",
        )
    line = json.dumps(
        {
            "job": number,
            "overrides": overrides,
            "run_dir": str(result.run_dir),
            "exit_code": result.exit_code,
            "error": result.error,
        }
    )
    descriptor = os.open(sweep_dir / JOBS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(line + "\n")


def read_jobs(sweep_dir: Path) -> list[Job]:
    """The finished jobs of a sweep, by number."""
    path = sweep_dir / JOBS
    if not path.is_file():
        return []
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    jobs = [
        Job(
            entry["job"],
            entry["overrides"],
            Path(entry["run_dir"]),
            entry["exit_code"],
            entry["error"],
        )
        for entry in entries
    ]
    return sorted(jobs, key=lambda job: job.number)


def sweep_exit_code(jobs: Sequence[Job]) -> int:
    """0: all completed; 130, 143: one was interrupted; 2: user errors only; 1 otherwise."""
    failures = [job.exit_code for job in jobs if job.exit_code != DONE]
    interruptions = [code for code in failures if code > 128]
    if interruptions:
        return interruptions[0]
    if not failures:
        return DONE
    return USER_ERROR if all(code == USER_ERROR for code in failures) else CRASHED


def show_sweep(sweep_dir: Path, jobs: Sequence[Job], console: Console) -> None:
    """Print the table of all jobs, and the errors of the failed ones."""
    # Imported here to keep the start of a single run fast.
    from toplora_train.report.numbers import counted
    from toplora_train.report.sweep import sweep_table

    console.print(sweep_table({f"{job.number} {job.overrides}": job.run_dir for job in jobs}))
    for job in jobs:
        if job.exit_code != DONE:
            reason = escape(job.error or f"exit code {job.exit_code}")
            console.print(f"[red]job {job.number}[/red] {escape(job.overrides)}: {reason}")
    line = f"{counted(len(jobs), 'job')} in {escape(str(sweep_dir))}"
    console.print(line, soft_wrap=True, highlight=False)
