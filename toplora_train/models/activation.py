"""Activation checkpointing: recompute layers in the backward pass instead of keeping them."""

from __future__ import annotations

from transformers import PreTrainedModel

from toplora_train.config.errors import UserError


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Enable it, non-reentrant, which works with frozen embeddings and with DDP.

    Raises:
        UserError: the model does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"{type(model).__name__} does not support activation checkpointing; "
            "set trainer.activation_checkpointing=false"
        )
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23 renamed it
        model.activation_checkpointing_enable(settings)
    else:
        model.gradient_checkpointing_enable(settings)
