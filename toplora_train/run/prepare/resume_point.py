"""Where a run goes on: its newest checkpoint, if the settings are those it was made with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.schema import LENGTH, RunConfig
from toplora_train.report.earlier import EarlierEnd
from toplora_train.run.prepare.resume_settings import resume_settings, with_defaults
from toplora_train.run.prepare.run_data import RunData, total_steps
from toplora_train.run.prepare.start_from import StartFrom
from toplora_train.train.checkpoint import (
    TrainState,
    newest_checkpoint,
    read_state,
    validate_same_settings,
)

log = logging.getLogger(__name__)


def resume_point(
    config: RunConfig,
    checkpoints: Path,
    run_data: RunData,
    origin: StartFrom | None,
    ends: Sequence[EarlierEnd],
    *,
    warn: Callable[[str], None] = log.warning,
) -> tuple[Path | None, TrainState]:
    """The checkpoint to resume from, if there is one, and the initial state.

    ``warn`` is called with a line for each damaged checkpoint.

    Raises:
        UserError: The checkpoint was made with other settings, or an extension has none.
    """
    settings = resume_settings(
        config,
        rows_sha256=run_data.rows.sha256,
        start_sha256=origin.file.sha256 if origin is not None else None,
    )
    checkpoint = newest_checkpoint(checkpoints, warn=warn) if config.resume is not None else None
    if checkpoint is None:
        if ends:
            raise UserError(
                f"{checkpoints} has no intact checkpoint to extend the run from; the finished run "
                f"is kept in {ends[-1].folder}; train a new run in another output_dir"
            )
        return None, TrainState(settings=settings)
    start = read_state(checkpoint)
    free = LENGTH if ends else frozenset()  # an extension changes the length
    validate_same_settings(
        checkpoint, without(with_defaults(start.settings, settings), free), without(settings, free)
    )
    total = total_steps(config, run_data.lengths)
    if total < start.step:
        raise UserError(
            f"{checkpoint} is beyond the {total} steps of this run; set the length that it was "
            "extended to"
        )
    return checkpoint, replace(start, settings=settings)


def without(settings: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The settings without some keys."""
    return {key: value for key, value in settings.items() if key not in keys}
