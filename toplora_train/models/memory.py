"""An estimate of the memory that training takes, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4 keeps a scale of a byte for 64 weights, and one in fp32 for 256 of those.
QUANTIZED_BYTES = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}


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
    quantization: str | None = None,
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
        quantization: ``4bit`` or ``8bit``, of all weights but the embeddings'.
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
    tables = 1 if getattr(config, "tie_word_embeddings", False) else 2
    embeddings = min(parameters, tables * int(config.vocab_size) * hidden)
    inner = QUANTIZED_BYTES[quantization] if quantization is not None else BYTES[dtype]
    return MemoryEstimate(
        weights=int(embeddings * BYTES[dtype] + (parameters - embeddings) * inner),
        adapter=trainable * 4 * 4,
        activations=kept,
        logits=rows * supervised * int(config.vocab_size) * (width + 4 + 4),
    )
