"""How an unfinished run ended, recorded in its ``report.json``."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.reading import read_json

REPORT = "report.json"
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of getrusage's memory


def read_report(run_dir: Path) -> dict[str, Any]:
    """The run's report, or an empty one if there is none or it is unreadable."""
    try:
        return read_json(run_dir / REPORT)
    except UserError:
        return {}


def is_completed(run_dir: Path) -> bool:
    """Whether the directory holds a finished run."""
    return read_report(run_dir).get("status") == "completed"


def killed_by(signum: int) -> str:
    """How a child process ended; after SIGKILL, which may be the kernel's, its memory."""
    if signum != signal.SIGKILL:
        return f"killed by signal {signum}"
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"killed by signal {signum} (out of memory? It had used up to {used / 2**30:.1f} GiB; this "
        f"machine has {total / 2**30:.1f} GiB)"
    )


def write_failure(
    run_dir: Path,
    *,
    status: str,
    error: str,
    error_type: str,
    log: str | None = None,
    only_first: bool = False,
) -> bool | None:
    """Record how the run ended, replacing an earlier failure but never a finished run's report.

    A full disk must not hide the failure itself, so this never raises OSError.

    Args:
        run_dir: The run directory.
        status: ``failed`` or ``interrupted``.
        error: The reason, in a line.
        error_type: The error's class name.
        log: The log with more details, if it is not ``train.log``.
        only_first: Keep an earlier record, because the first process to fail is the cause.

    Returns:
        False if another process has already recorded its failure, None if the disk takes nothing.
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
            os.link(aside, run_dir / REPORT)  # atomic; fails if there is a record
            aside.unlink()
        else:
            aside.replace(run_dir / REPORT)
    except FileExistsError:
        aside.unlink()
        return False
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        return None
    return True
