"""The table of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from toplora_train.config.errors import UserError
from toplora_train.report import numbers
from toplora_train.report.jobs import Job
from toplora_train.report.record import completed_report

LONGEST = 40  # characters of a word in a cell
STYLES = {
    "completed": "green",
    "failed": "red",
    "interrupted": "yellow",
    "pruned": "yellow",
    "running": "cyan",
}


def sweep_table(study: Path, jobs: Sequence[Job]) -> Table:
    """Return a table with a row per job of a study; its numbers are those of ``report.json``.

    A completed job shows its trainable parameters, final loss, score with its 95 % interval (the
    mean over several tasks) and time; any other job its status.
    """
    table = Table()
    shown = [numbers.shortened(" ".join(job.title.split()), LONGEST) for job in jobs]
    longest = max((len(word) for name in shown for word in name.split()), default=0)
    table.add_column("job", overflow="fold", min_width=longest)
    table.add_column("status", no_wrap=True)
    headings = ["parameters", "final loss", "score (95 % interval)", "time"]
    held_out = any(job.value is not None for job in jobs)
    if held_out:
        headings.insert(2, "held out")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, job in zip(shown, jobs, strict=True):
        cells = _numbers(study / job.folder) if job.status == "completed" else [""] * 4
        if held_out:
            cells.insert(2, "" if job.value is None else f"{job.value:.4f}")
        status = Text(job.status, STYLES.get(job.status, ""))
        table.add_row(Text(name), status, *(Text(cell) for cell in cells))
    return table


def _numbers(run_dir: Path) -> list[str]:
    try:
        report = completed_report(run_dir)
    except UserError:
        return [""] * 4
    train, average, interval = report["train"], report["average"], report["average_ci95"]
    return [
        numbers.count(report["adapter"]["trainable_parameters"]),
        f"{train['loss_last']:.4f}",
        "not evaluated"
        if average is None
        else "undefined"
        if numbers.any_undefined(report)
        else f"{numbers.percent(average)} ({numbers.percent_interval(interval)})",
        numbers.readable_seconds(train["seconds"]),
    ]
