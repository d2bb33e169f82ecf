"""Weights & Biases.

Its files are in ``RUN/wandb``. ``WANDB_MODE`` is respected; if it is not set and there is no API
key, the run is logged offline, for ``wandb sync`` to upload later. A resumed run continues the same
one.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from toplora_train.report.trackers.base import RunTracker, TrackedRun

logger = logging.getLogger(__name__)

RUN_ID = "run-id"


def open_run(run: TrackedRun) -> WandbTracker:
    """Start a run, or continue that of the run directory."""
    import wandb  # slow to import

    logging.getLogger("wandb").propagate = False  # it has a log file of its own
    folder = run.folder / "wandb"
    mode: Literal["offline"] | None = None
    if "WANDB_MODE" not in os.environ and not has_api_key(_base_url(wandb)):
        mode = "offline"
        logger.info(
            "wandb: no API key found, so this run is logged offline in %s; "
            "upload it later with `wandb sync`",
            folder,
        )
    folder.mkdir(parents=True, exist_ok=True)
    started = wandb.init(
        project=run.settings.project,
        entity=run.settings.entity,
        group=run.settings.group,
        name=run.name,
        id=_run_id(folder / RUN_ID, new=secrets.token_hex(4)),
        resume="allow",
        dir=str(run.folder),
        config=dict(run.config),
        mode=mode,
        # Its output, and its capture of ours, would break the progress bars.
        settings=wandb.Settings(silent=True, console="off"),
    )
    if not started.offline:  # offline, reading the URL triggers a warning
        logger.info("wandb: %s", started.url)
    return WandbTracker(started)


class WandbTracker(RunTracker):
    """A run of Weights & Biases."""

    def finish(self, summary: Mapping[str, float], files: Sequence[Path], /) -> None:
        """Record the final metrics and the reports, and wait until they are stored."""
        import wandb

        self._run.summary.update(dict(summary))
        report = wandb.Artifact(f"report-{self._run.id}", type="report")
        for file in files:
            report.add_file(str(file))
        self._run.log_artifact(report)
        self._run.finish()
        # finish() may return before the background process has written everything.
        wandb.teardown()


def has_api_key(base_url: str) -> bool:
    """Whether Weights & Biases can log in without a prompt: by environment variable or netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path.home()
    candidates = [os.environ.get("NETRC"), home / ".netrc", home / "_netrc"]
    for path in candidates:
        try:
            if path and netrc.netrc(str(path)).authenticators(urlsplit(base_url).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _run_id(path: Path, *, new: str) -> str:
    """The run's id on the server, the same for a resumed run."""
    if not path.is_file():
        path.write_text(new, encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _base_url(wandb: Any) -> str:
    return os.environ.get("WANDB_BASE_URL") or str(wandb.Settings().base_url)
