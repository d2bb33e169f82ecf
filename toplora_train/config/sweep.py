"""What Hydra has to know of a sweep: where it goes, what its jobs are called, and that it began."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

JOBS = "jobs.jsonl"
MAX_NAME = 120
_started: list[Path] = []


class SweepStart(Callback):
    """Remembers the folder of the sweep that this process started."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Hydra calls this before the first job; the list of jobs begins anew."""
        sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
        (sweep_dir / JOBS).unlink(missing_ok=True)
        _started.append(sweep_dir)


def take_started_sweep() -> Path | None:
    """The folder of the sweep that this process started, if it did; asking again gives None."""
    return _started.pop() if _started else None


def register_resolvers() -> None:
    """Let the root configuration say ``${sweep_dir:...}`` and ``${job_dir:...}``."""
    OmegaConf.register_new_resolver("sweep_dir", _sweep_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)


def job_dir(number: int, overrides: str) -> str:
    """The folder of a job inside its sweep: its number and what it overrides.

    Without ``=`` and ``,``, so that it can be typed as a value on a later command line.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", overrides.replace("=", "-"))[:MAX_NAME].strip("_")
    return f"{number}-{name}" if name else str(number)


def _sweep_dir(output_dir: str | None) -> str:
    return output_dir or f"multirun/{datetime.now():%Y%m%d-%H%M%S}"
