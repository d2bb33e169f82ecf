"""What joins the processes: an engine that is not built is refused before anything is slow."""

from __future__ import annotations

from toplora_train.config.errors import UserError


def refuse_unbuilt_engine(engine: str) -> None:
    """Refuse DeepSpeed's ZeRO, in words.

    DeepSpeed steps inside its own backward pass and drops the gradients, so neither could a loss
    that is no number be kept from the weights, nor an untrained tensor be named, nor would there be
    one step to read for all engines. FSDP2 shares out the same tensors and leaves the step ours.

    Raises:
        UserError: Names the alternatives.
    """
    if engine in ("zero2", "zero3"):
        raise UserError(
            f"launch.engine={engine}: DeepSpeed's ZeRO is not built; launch=fsdp2 shares the base "
            "model, the adapter and the optimizer out while training (as ZeRO stage 3), launch=ddp "
            "keeps a whole model on each GPU"
        )
