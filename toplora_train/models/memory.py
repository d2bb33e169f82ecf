"""An estimate of the memory that training takes, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, by what they hold.

    ``adapter`` counts weights, gradients and AdamW's two moments of the trainable parameters.
    ``activations`` is what one micro-batch of the longest rows keeps for the backward pass.
    """

    weights: int
    adapter: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.adapter + self.activations + self.logits


def estimate_memory(
    config: Any,
    *,
    parameters: int,
    trainable: int,
    dtype: str,
    compute_dtype: str,
    rows: int,
    tokens: int,
    supervised: int,
    activation_checkpointing: bool,
) -> MemoryEstimate:
    """Estimate for a decoder with a gated feed-forward part, the base frozen.

    A frozen linear layer keeps nothing but what its adapter needs; the norms, rotary embeddings,
    attention and the gated product keep about ``12 d + 3 f`` numbers per token and layer (d hidden,
    f feed-forward width). With activation checkpointing one layer's worth and ``d`` for each layer.
    The supervised logits exist about three times: as computed, in fp32, and as their gradient.

    Args:
        config: the model's own configuration (transformers).
        parameters: of the base model.
        trainable: of the adapter.
        dtype: of the base's weights.
        compute_dtype: of the activations.
        rows: of a micro-batch.
        tokens: of its longest row.
        supervised: positions whose logits are computed.
        activation_checkpointing: whether layers are recomputed.
    """
    width = BYTES[compute_dtype]
    hidden = int(config.hidden_size)
    feed_forward = int(getattr(config, "intermediate_size", 4 * hidden))
    layers = int(config.num_hidden_layers)
    per_layer = rows * tokens * (12 * hidden + 3 * feed_forward) * width
    kept = (
        per_layer + layers * rows * tokens * hidden * width
        if activation_checkpointing
        else layers * per_layer
    )
    return MemoryEstimate(
        weights=parameters * BYTES[dtype],
        adapter=trainable * 4 * 4,
        activations=kept,
        logits=rows * supervised * int(config.vocab_size) * (width + 4 + 4),
    )
