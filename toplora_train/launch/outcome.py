"""What became of a run that did not finish, kept in its ``report.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

REPORT = "report.json"


def read_report(run_dir: Path) -> dict[str, Any]:
    """The run's report, or an empty one where there is none that can be read."""
    try:
        report = json.loads((run_dir / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def is_completed(run_dir: Path) -> bool:
    """Whether the directory holds a finished run."""
    return read_report(run_dir).get("status") == "completed"


def write_failure(run_dir: Path, *, status: str, error: str, error_type: str) -> None:
    """Note how the run ended, over an earlier note but never over a finished run's report.

    A disk that takes no more must not hide the failure itself, so this never raises OSError.
    """
    report = read_report(run_dir)
    if report.get("status") == "completed":
        return
    report |= {
        "schema_version": 1,
        "status": status,
        "error": error,
        "error_type": error_type,
    }
    aside = run_dir / f".{REPORT}.{os.getpid()}"
    try:
        aside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        aside.replace(run_dir / REPORT)
    except OSError:
        aside.unlink(missing_ok=True)
