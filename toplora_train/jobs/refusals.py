"""Settings that are right one by one and cannot be together, seen before anything is read."""

from __future__ import annotations

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.jobs.learning import refuse_unfit_compilation, refuse_unfit_optimizer
from toplora_train.jobs.selection import selects


def refuse_unfit_settings(config: RunConfig, *, processes: int) -> None:
    """Refuse what no run of ``processes`` processes can do; a plan refuses the same.

    Raises:
        UserError: names the settings and what to use instead.
    """
    selects(config)
    refuse_unvalidated(config)
    refuse_unfit_compilation(config, processes=processes)
    refuse_unfit_optimizer(config, processes=processes)


def refuse_unvalidated(config: RunConfig) -> None:
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
