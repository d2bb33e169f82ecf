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
    refuse_two_lengths(config)
    selects(config)
    refuse_unfit_compilation(config, processes=processes)
    refuse_unfit_optimizer(config, processes=processes)


def refuse_two_lengths(config: RunConfig) -> None:
    """Refuse a run whose end is given twice.

    Raises:
        UserError: names both settings.
    """
    if config.trainer.max_steps is not None and config.trainer.max_tokens is not None:
        raise UserError(
            f"trainer.max_steps={config.trainer.max_steps} and trainer.max_tokens="
            f"{config.trainer.max_tokens} both say when the run ends; set one of them to null"
        )
