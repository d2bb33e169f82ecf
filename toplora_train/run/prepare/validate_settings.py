"""Settings that are right one by one and cannot be together, seen before anything is read."""

from __future__ import annotations

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.run.fit.best_checkpoint import selects
from toplora_train.run.fit.optimization import validate_compilation, validate_optimizer


def validate_settings(config: RunConfig, *, processes: int) -> None:
    """Refuse what no run of ``processes`` processes can do; a plan refuses the same.

    Raises:
        UserError: names the settings and what to use instead.
    """
    selects(config)
    validate_eval_every(config)
    validate_compilation(config, processes=processes)
    validate_optimizer(config, processes=processes)


def validate_eval_every(config: RunConfig) -> None:
    """Refuse to validate without rows to validate on.

    Raises:
        UserError: names the setting and what holds rows out.
    """
    dataset, every = config.dataset, config.trainer.eval_every
    if every and not (dataset.validation_rows or dataset.validation_share):
        raise UserError(
            f"trainer.eval_every={every} validates on rows that are held out: set "
            "dataset.validation_rows or dataset.validation_share"
        )
