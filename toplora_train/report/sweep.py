"""The summary table of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from toplora_train.config.errors import UserError
from toplora_train.report.numbers import (
    any_undefined,
    count,
    percent,
    percent_interval,
    readable_seconds,
)
from toplora_train.report.record import read_report

WHOLE_WORDS = 40  # words of job names up to this many characters are not broken
_STYLES = {"completed": "green", "failed": "red", "interrupted": "yellow"}


def sweep_table(jobs: Mapping[str, Path]) -> Table:
    """Return a table with a row per job, from each run directory's ``report.json``.

    Args:
        jobs: The run directories by job name (words separated by spaces).

    A completed job shows its trainable parameters, final loss, score with its 95 % interval (the
    mean over several tasks) and time; any other job its status and error. A directory without a
    report is listed as such.
    """
    reports = {name: _report(run_dir) for name, run_dir in jobs.items()}
    errors = {name: _error(report) for name, report in reports.items()}
    table = Table()
    longest = max((len(word) for name in jobs for word in name.split()), default=0)
    table.add_column("job", overflow="fold", min_width=min(longest, WHOLE_WORDS))
    table.add_column("status", no_wrap=True)
    for heading in ("parameters", "final loss", "score (95 % interval)", "time"):
        table.add_column(heading, justify="right")
    if any(errors.values()):
        table.add_column("error", overflow="fold")
    for name, report in reports.items():
        status = "no report" if report is None else str(report.get("status", "unknown"))
        cells = [Text(name.strip()), Text(status, _STYLES.get(status, "red"))]
        cells += [Text(cell) for cell in _numbers(report)]
        if any(errors.values()):
            cells.append(Text(errors[name], "red"))
        table.add_row(*cells)
    return table


def _numbers(report: Mapping[str, Any] | None) -> list[str]:
    if report is None or report.get("status") != "completed":
        return [""] * 4
    train, average, interval = report["train"], report["average"], report["average_ci95"]
    return [
        count(report["adapter"]["trainable_parameters"]),
        f"{train['loss_last']:.4f}",
        "not evaluated"
        if average is None
        else "undefined"
        if any_undefined(report)
        else f"{percent(average)} ({percent_interval(interval)})",
        readable_seconds(train["seconds"]),
    ]


def _report(run_dir: Path) -> dict[str, Any] | None:
    try:
        return read_report(run_dir / "report.json")
    except UserError:
        return None


def _error(report: Mapping[str, Any] | None) -> str:
    """The error on one line, or an empty string."""
    return "" if report is None else " ".join(str(report.get("error") or "").split())
