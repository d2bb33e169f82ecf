"""Metrics to an experiment tracker, which may fail but never stops a run."""

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
    """Something that is told the metrics of a run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the final numbers and let go."""


def open_tracker(
    name: str,
    *,
    project: str,
    entity: str | None,
    group: str | None,
    run_dir: Path,
    config: Mapping[str, Any],
) -> Tracker:
    """Return the tracker called ``name``: ``none`` or ``wandb``.

    Weights & Biases keeps its files in ``run_dir/wandb``. ``WANDB_MODE`` is respected; where it is
    not set and no API key is at hand, the run is kept offline, to be sent later by ``wandb sync``.

    Args:
        name: Which tracker.
        project: The project the run belongs to.
        entity: The user or team; None for the key's own.
        group: Which runs belong together, a sweep say.
        run_dir: The run directory, also the run's name.
        config: The resolved configuration.
    """
    if name == "none":
        return NoTracker()
    if name != "wandb":
        raise UserError(f"no tracker is called '{name}'; trackers: none, wandb")
    tracker = WandbTracker()
    tracker.start(project=project, entity=entity, group=group, run_dir=run_dir, config=dict(config))
    return tracker


class NoTracker:
    """Tells nobody."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


class WandbTracker:
    """Weights & Biases. Its first failure is warned of, and none of them gets any further."""

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
        """Begin the run."""

        def begin() -> None:
            import wandb  # takes a third of a second, and only those who chose it need it

            logging.getLogger("wandb").propagate = False  # it has a log file of its own
            mode: Literal["offline"] | None = None
            if "WANDB_MODE" not in os.environ and not has_api_key(_base_url(wandb)):
                mode = "offline"
                logger.info(
                    "wandb: no API key found, so this run is kept offline in %s; "
                    "send it later with `wandb sync`",
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
                # Its own printing would tear the progress bars, and its capture of ours as well.
                settings=wandb.Settings(silent=True, console="off"),
            )
            if not self._run.offline:  # offline, asking for the address is warned of
                logger.info("wandb: %s", self._run.url)

        self._try(begin)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record ``metrics`` at optimizer step ``step``."""
        if self._run is not None:
            self._try(lambda: self._run.log(dict(metrics), step=step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the final numbers and wait until they are stored."""
        if self._run is None:
            return

        def end() -> None:
            import wandb

            self._run.summary.update(dict(summary))
            self._run.finish()
            # Finishing returns while the background process may still hold everything unwritten.
            wandb.teardown()

        self._try(end)
        self._run = None

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # of whatever kind: watching a run must not end it
            if not self._warned:
                self._warned = True
                logger.warning(
                    "wandb failed (%s: %s); the run goes on, and metrics.jsonl has every metric",
                    type(error).__name__,
                    " ".join(str(error).split()),
                )


def has_api_key(base_url: str) -> bool:
    """Whether Weights & Biases could log in without asking: by environment variable or netrc."""
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
