"""Settings that are valid alone but not together, checked before anything is read."""

from __future__ import annotations

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.report.trackers.base import validate_tracker
from toplora_train.run.fit.best_checkpoint import selects
from toplora_train.run.fit.optimization import validate_compilation, validate_optimizer


def validate_settings(config: RunConfig, *, processes: int) -> None:
    """Check that ``processes`` processes can run the configuration; plans check the same.

    Raises:
        UserError: Names the settings and what to use instead.
    """
    selects(config)
    validate_tracker(config.tracker.name)
    validate_eval_every(config)
    validate_compilation(config, processes=processes)
    validate_optimizer(config, processes=processes)
    validate_sharding(config, processes=processes)


def validate_eval_every(config: RunConfig) -> None:
    """Check that there are rows to validate on.

    Raises:
        UserError: Names the setting and how to hold out rows.
    """
    dataset, every = config.dataset, config.trainer.eval_every
    if every and not (dataset.validation_rows or dataset.validation_share):
        raise UserError(
            f"trainer.eval_every={every} needs held-out rows: set dataset.validation_rows or "
            "dataset.validation_share"
        )


def validate_sharding(config: RunConfig, *, processes: int) -> None:
    """Check that the settings fit a sharded base model.

    Raises:
        UserError: Names the setting and what to use instead.
    """
    engine = config.launch.engine
    if engine not in ("fsdp2", "zero3") or processes == 1:
        return
    if config.trainer.micro_batch_size == "auto":
        raise UserError(
            "trainer.micro_batch_size=auto tries passes until memory runs out, which processes "
            f"that communicate in every pass (launch={engine}) would not survive; set a number, "
            "from plan=true"
        )
    if config.model.quantization == "8bit":
        raise UserError(
            f"model.quantization=8bit does not work with launch={engine}: a shard loses the scales "
            "of its weight; use model.quantization=4bit, launch=ddp or launch=zero2"
        )
