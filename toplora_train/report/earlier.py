"""Results of a finished run from before it was extended (``resume=extend``), kept in full.

    RUN_DIR/earlier/step-00000008/    config, report, metrics, adapter and predictions at that step

Such a folder reads as a finished run without checkpoints. While the run is being extended it is the
only copy of the finished results; a run with earlier ends but no ``report.json`` is an extension in
progress.
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
    "inspection",
    "predictions",
)


@dataclass(frozen=True)
class EarlierEnd:
    """An earlier end of a run: its last step and the command that produced it."""

    folder: Path
    step: int
    command: str


def earlier_ends(run_dir: Path) -> list[EarlierEnd]:
    """The earlier ends of a run, oldest first.

    Raises:
        UserError: The report of one is missing.
    """
    ends = []
    for folder in sorted((run_dir / FOLDER).glob("step-*")):
        report = read_report(folder / REPORT)
        ends.append(EarlierEnd(folder, int(report["train"]["steps"]), str(report["command"])))
    return ends


def keep_end(run_dir: Path) -> Path:
    """Copy the results of a finished run, atomically."""
    target = _folder(run_dir, read_report(run_dir / REPORT))
    temporary = target.with_name(f".writing-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in KEPT:
        if (run_dir / name).is_dir():
            shutil.copytree(run_dir / name, temporary / name)
        elif (run_dir / name).is_file():
            shutil.copy2(run_dir / name, temporary / name)
    shutil.rmtree(target, ignore_errors=True)  # left by an extension that never started
    temporary.rename(target)
    return target


def undo_unbegun(run_dir: Path) -> None:
    """Restore a finished run's configuration if its extension never started.

    In that case the run still has its report, and the copy of its results is removed.
    """
    end = _kept_end(run_dir)
    if end is None:
        return
    temporary = run_dir / f".{CONFIG}"
    shutil.copy2(end / CONFIG, temporary)
    temporary.replace(run_dir / CONFIG)
    shutil.rmtree(end)
    if not any((run_dir / FOLDER).iterdir()):
        (run_dir / FOLDER).rmdir()


def finished_config(run_dir: Path) -> Path:
    """The configuration file of a finished run.

    Between the start of an extension and its training, when the run still has its report, its own
    configuration is the extension's already: a process that starts late reads the kept one.
    """
    return (_kept_end(run_dir) or run_dir) / CONFIG


def _kept_end(run_dir: Path) -> Path | None:
    """The copy of a finished run's results, while it is being extended and has still its report."""
    if not (run_dir / REPORT).is_file() or not (run_dir / FOLDER).is_dir():
        return None
    report = read_report(run_dir / REPORT)
    if report["status"] != "completed":
        return None
    end = _folder(run_dir, report)
    return end if end.is_dir() else None


def _folder(run_dir: Path, report: dict[str, Any]) -> Path:
    return run_dir / FOLDER / f"step-{report['train']['steps']:08d}"
