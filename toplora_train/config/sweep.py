"""Sweeps: their folder, the names of their jobs, and a callback at their start."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

JOBS = "jobs.jsonl"
MAX_NAME = 120
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
_started: list[Path] = []


class SweepStart(Callback):
    """Records the folder of the sweep that this process started."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Start a new list of jobs; Hydra calls this before the first one.

        Keys that all jobs share are left out of their names. Hydra composes each job, in whichever
        process a launcher runs it, with the override appended here.
        """
        sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
        (sweep_dir / JOBS).unlink(missing_ok=True)
        common = ",".join(f"'{key}'" for key in _common_keys(config.hydra))
        with read_write(config), open_dict(config):
            config.hydra.overrides.hydra.append(f"{EXCLUDED}=[{common}]")
        _started.append(sweep_dir)


def swept_overrides(hydra: DictConfig) -> list[str]:
    """The overrides in which a job differs from the others of its sweep, as typed.

    Args:
        hydra: Hydra's own node in the job's configuration.
    """
    excluded = set(hydra.job.config.override_dirname.exclude_keys)
    parsed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    return [str(one.input_line) for one in parsed if one.key_or_group not in excluded]


def take_started_sweep() -> Path | None:
    """Return and forget the folder of the sweep that this process started, if any."""
    return _started.pop() if _started else None


def register_resolvers() -> None:
    """Register the resolvers ``${sweep_dir:...}`` and ``${job_dir:...}``."""
    OmegaConf.register_new_resolver("sweep_dir", _sweep_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)


def job_dir(number: int, overrides: str) -> str:
    """The folder of a job inside its sweep: its number and its overrides.

    It contains no ``=`` or ``,``, so that it can be a value on a later command line.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", overrides.replace("=", "-"))[:MAX_NAME].strip("_")
    return f"{number}-{name}" if name else str(number)


def _common_keys(hydra: DictConfig) -> list[str]:
    """The keys with one value for all jobs, and those that are never in a name."""
    parsed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    swept = {one.key_or_group for one in parsed if one.is_sweep_override()}
    never = set(hydra.job.config.override_dirname.exclude_keys)
    return sorted((never | {one.key_or_group for one in parsed}) - swept)


def _sweep_dir(output_dir: str | None) -> str:
    return output_dir or f"multirun/{datetime.now():%Y%m%d-%H%M%S}"
