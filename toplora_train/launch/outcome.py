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


def write_failure(
    run_dir: Path,
    *,
    status: str,
    error: str,
    error_type: str,
    log: str | None = None,
    only_first: bool = False,
) -> bool:
    """Note how the run ended, over an earlier note but never over a finished run's report.

    A disk that takes no more must not hide the failure itself, so this never raises OSError.

    Args:
        run_dir: The run directory.
        status: ``failed`` or ``interrupted``.
        error: Why, in a line.
        error_type: The kind of error.
        log: The log that tells more, where it is not ``train.log``.
        only_first: Leave an earlier note: of several processes the first one's is the cause.

    Returns:
        Whether this note is not there already, from an earlier process.
    """
    report = read_report(run_dir)
    if report.get("status") == "completed":
        return True
    report |= {
        "schema_version": 1,
        "status": status,
        "error": error,
        "error_type": error_type,
    }
    if log is not None:
        report["log"] = log
    aside = run_dir / f".{REPORT}.{os.getpid()}"
    try:
        aside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        if only_first:
            os.link(aside, run_dir / REPORT)  # refused, in one step, where there is a note
            aside.unlink()
        else:
            aside.replace(run_dir / REPORT)
    except FileExistsError:
        aside.unlink()
        return False
    except OSError:
        aside.unlink(missing_ok=True)
    return True
