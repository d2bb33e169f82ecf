"""The earlier ends of a run that was trained for longer (``resume=extend``), each kept whole.

    RUN_DIR/earlier/step-00000008/    config, report, metrics, adapter and predictions of that end

Such a folder is a finished run, but for its checkpoints, for whoever reads runs. While the run is
extended it is what is left of the finished one; a run without ``report.json`` that has earlier ends
is an extension under way.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toplora_train.report.record import read_report

FOLDER = "earlier"
REPORT = "report.json"
CONFIG = "config.yaml"
KEPT = (
    CONFIG,
    REPORT,
    "report.md",
    "report.html",
    "metrics.jsonl",
    "figures",
    "adapter",
    "predictions",
)


@dataclass(frozen=True)
class EarlierEnd:
    """Where a run ended before: after which step, and the command that brought it there."""

    folder: Path
    step: int
    command: str


def earlier_ends(run_dir: Path) -> list[EarlierEnd]:
    """The earlier ends of a run, the first one first.

    Raises:
        UserError: One has lost its report.
    """
    ends = []
    for folder in sorted((run_dir / FOLDER).glob("step-*")):
        report = read_report(folder / REPORT)
        ends.append(EarlierEnd(folder, int(report["train"]["steps"]), str(report["command"])))
    return ends


def keep_end(run_dir: Path) -> Path:
    """Copy the end of a finished run; the folder is whole or absent."""
    target = _folder(run_dir, read_report(run_dir / REPORT))
    aside = target.with_name(f".writing-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in KEPT:
        if (run_dir / name).is_dir():
            shutil.copytree(run_dir / name, aside / name)
        elif (run_dir / name).is_file():
            shutil.copy2(run_dir / name, aside / name)
    shutil.rmtree(target, ignore_errors=True)  # of an extension that never began
    aside.rename(target)
    return target


def undo_unbegun(run_dir: Path) -> None:
    """Put a finished run's configuration back where its extension never began.

    Then the finished run's report is still in its place, and the copy of it is removed.
    """
    if not (run_dir / REPORT).is_file() or not (run_dir / FOLDER).is_dir():
        return
    report = read_report(run_dir / REPORT)
    if report["status"] != "completed":
        return
    end = _folder(run_dir, report)
    if not end.is_dir():
        return
    aside = run_dir / f".{CONFIG}"
    shutil.copy2(end / CONFIG, aside)
    aside.replace(run_dir / CONFIG)
    shutil.rmtree(end)
    if not any((run_dir / FOLDER).iterdir()):
        (run_dir / FOLDER).rmdir()


def _folder(run_dir: Path, report: dict[str, Any]) -> Path:
    return run_dir / FOLDER / f"step-{report['train']['steps']:08d}"
