"""Settings that are valid alone but not together, checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterator

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.report.trackers.base import validate_tracker
from toplora_train.run.fit.best_checkpoint import selects


def validate_settings(config: RunConfig, *, processes: int) -> None:
    """Check that ``processes`` processes can run the configuration; plans check the same.

    Raises:
        UserError: Names the settings and what to use instead.
    """
    selects(config)
    validate_tracker(config.tracker.name)
    for conflict in _conflicts(config, sharded=config.launch.engine != "ddp" and processes > 1):
        raise UserError(conflict)


def _conflicts(config: RunConfig, *, sharded: bool) -> Iterator[str]:
    trainer, dataset = config.trainer, config.dataset
    if trainer.eval_every and not (dataset.validation_rows or dataset.validation_share):
        yield (
            f"trainer.eval_every={trainer.eval_every} needs held-out rows: set "
            "dataset.validation_rows or dataset.validation_share"
        )
    if trainer.compile is not None and trainer.activation_checkpointing:
        yield (
            "trainer.compile: torch does not compile layers that recompute their activations; use "
            "trainer.compile=null or trainer.activation_checkpointing=false"
        )
    if trainer.compile is not None and sharded:
        yield (
            "trainer.compile does not support sharded tensors; use launch=ddp or "
            "trainer.compile=null"
        )
    if config.optimizer.name == "muon" and sharded:
        yield (
            f"optimizer=muon needs whole matrices, but launch={config.launch.engine} shards them; "
            "use launch=ddp or optimizer=adamw"
        )
