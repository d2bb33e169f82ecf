"""Experiment trackers. A failing tracker never stops a run."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from toplora_train.config.errors import UserError

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Receives the metrics of a run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the final metrics and close the tracker."""


def open_tracker(
    name: str,
    *,
    project: str,
    entity: str | None,
    group: str | None,
    run_dir: Path,
    config: Mapping[str, Any],
) -> Tracker:
    """Return the tracker ``name``: ``none`` or ``wandb``.

    Weights & Biases writes its files to ``run_dir/wandb``. ``WANDB_MODE`` is respected; if it is
    not set and there is no API key, the run is logged offline, for ``wandb sync`` to upload later.

    Args:
        name: The tracker's name.
        project: The project the run belongs to.
        entity: The user or team; None for the API key's default.
        group: The name of the group, such as a sweep, that the run belongs to.
        run_dir: The run directory; its name is the run's name.
        config: The resolved configuration.
    """
    if name == "none":
        return NoTracker()
    if name != "wandb":
        raise UserError(f"unknown tracker '{name}'; choose none or wandb")
    tracker = WandbTracker()
    tracker.start(project=project, entity=entity, group=group, run_dir=run_dir, config=dict(config))
    return tracker


class NoTracker:
    """Does nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


class WandbTracker:
    """Weights & Biases. Errors are caught; the first one is logged as a warning."""

    def __init__(self) -> None:
        self._run: Any = None
        self._warned = False

    def start(
        self,
        *,
        project: str,
        entity: str | None,
        group: str | None,
        run_dir: Path,
        config: dict[str, Any],
    ) -> None:
        """Start the run."""

        def begin() -> None:
            import wandb  # slow to import, and only needed with tracker=wandb

            logging.getLogger("wandb").propagate = False  # it has a log file of its own
            mode: Literal["offline"] | None = None
            if "WANDB_MODE" not in os.environ and not has_api_key(_base_url(wandb)):
                mode = "offline"
                logger.info(
                    "wandb: no API key found, so this run is logged offline in %s; "
                    "upload it later with `wandb sync`",
                    run_dir / "wandb",
                )
            run_dir.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=project,
                entity=entity,
                group=group,
                name=run_dir.name,
                dir=str(run_dir),
                config=config,
                mode=mode,
                # Its output, and its capture of ours, would break the progress bars.
                settings=wandb.Settings(silent=True, console="off"),
            )
            if not self._run.offline:  # offline, reading the URL triggers a warning
                logger.info("wandb: %s", self._run.url)

        self._try(begin)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""
        if self._run is not None:
            self._try(lambda: self._run.log(dict(metrics), step=step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the final metrics and wait until they are stored."""
        if self._run is None:
            return

        def end() -> None:
            import wandb

            self._run.summary.update(dict(summary))
            self._run.finish()
            # finish() may return before the background process has written everything.
            wandb.teardown()

        self._try(end)
        self._run = None

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # any error: a tracker must never stop a run
            if not self._warned:
                self._warned = True
                logger.warning(
                    "wandb failed (%s: %s); training continues, and metrics.jsonl has all metrics",
                    type(error).__name__,
                    " ".join(str(error).split()),
                )


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


def _base_url(wandb: Any) -> str:
    return os.environ.get("WANDB_BASE_URL") or str(wandb.Settings().base_url)
