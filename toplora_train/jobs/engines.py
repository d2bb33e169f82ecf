"""Whether what joins the processes can do what a run asks of it, known before anything is slow."""

from __future__ import annotations

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig


def refuse_unfit_engine(config: RunConfig, *, processes: int) -> None:
    """Refuse an engine that is not built, and FSDP2 where the best epoch is kept.

    DeepSpeed steps inside its own backward pass and drops the gradients, so that neither a loss
    that is no number could be kept from the weights, nor an untrained tensor be named, nor could
    one step be read for all engines. FSDP2 shares out the same tensors and leaves the step ours.

    Args:
        config: The run.
        processes: How many there are; one alone needs no engine.

    Raises:
        UserError: Names the alternative.
    """
    engine = config.launch.engine
    if engine in ("zero2", "zero3"):
        raise UserError(
            f"launch.engine={engine}: DeepSpeed's ZeRO is not built; launch=fsdp2 shares the base "
            "model, the adapter and the optimizer out over the GPUs (as ZeRO stage 3), launch=ddp "
            "keeps a whole model on each"
        )
    holds_out = config.dataset.validation_rows or config.dataset.validation_share
    if engine == "fsdp2" and processes > 1 and head_task(config) is not None and holds_out:
        raise UserError(
            "launch.engine=fsdp2 cannot judge a head on held-out rows after every epoch; use "
            "launch=ddp, or keep the last epoch: dataset.validation_rows=0 "
            "dataset.validation_share=0"
        )
