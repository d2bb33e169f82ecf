"""The table of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

TUNING = "tuning"  # the folder in a study of the runs by which learning rates are chosen
LONGEST = 40  # characters of a word in a cell
STYLES = {"completed": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}


@dataclass(frozen=True)
class SweepRow:
    """A job: its overrides, run directory, status and, if any, result on the held-out rows."""

    overrides: str
    run_dir: Path
    status: str
    held_out: float | None = None


def sweep_table(rows: Sequence[SweepRow]) -> Table:
    """Return a table with a row per job; its numbers are those of ``report.json``.

    A completed job shows its trainable parameters, final loss, score with its 95 % interval (the
    mean over several tasks) and time; any other job its status.
    """
    table = Table()
    shown = [shortened(row.overrides) for row in rows]
    longest = max((len(word) for name in shown for word in name.split()), default=0)
    table.add_column("job", overflow="fold", min_width=longest)
    table.add_column("status", no_wrap=True)
    headings = ["parameters", "final loss", "score (95 % interval)", "time"]
    held_out = any(row.held_out is not None for row in rows)
    if held_out:
        headings.insert(2, "held out")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in zip(shown, rows, strict=True):
        cells = _numbers(row)
        if held_out:
            cells.insert(2, "" if row.held_out is None else f"{row.held_out:.4f}")
        status = Text(row.status, STYLES.get(row.status, ""))
        table.add_row(Text(name), status, *(Text(cell) for cell in cells))
    return table


def shortened(overrides: str) -> str:
    """The overrides, the middle of each long word cut: ``dataset.train=/data/...rows.jsonl``."""
    half = (LONGEST - 3) // 2
    return " ".join(
        word if len(word) <= LONGEST else f"{word[:half]}...{word[-half:]}"
        for word in overrides.split()
    )


def _numbers(row: SweepRow) -> list[str]:
    report = _report(row.run_dir) if row.status == "completed" else None
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


def _report(run_dir: Path) -> Mapping[str, Any] | None:
    try:
        return read_report(run_dir / "report.json")
    except UserError:
        return None
