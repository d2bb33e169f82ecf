"""Data-driven initialization of an adapter (EVA)."""

from __future__ import annotations

from peft import PeftModel

from toplora_train.adapters.attach import adapter_module, start_from_data
from toplora_train.config.schema import RunConfig
from toplora_train.run.prepare.run_data import RunData
from toplora_train.train.sampler import remaining_batches

SHOWN_BATCHES = 64


def show_rows(adapted: PeftModel, config: RunConfig, run_data: RunData) -> None:
    """Initialize the adapter from the rows of the first steps; a no-op for most adapters.

    Raises:
        UserError: These rows do not suffice.
    """
    if not hasattr(adapter_module(str(config.adapter["name"])), "start_from_data"):
        return
    order = remaining_batches(
        run_data.lengths,
        after=0,
        until=SHOWN_BATCHES,
        batch_size=config.trainer.batch_size,
        group_by_length=config.trainer.group_by_length,
        seed=config.seed,
    )
    batches = [
        run_data.objective.collate([run_data.train[index] for index in rows])
        for _, _, rows in order
    ]
    start_from_data(adapted, config.adapter, batches)
