"""An estimate of the memory that training takes, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4 keeps a scale of a byte for 64 weights, and one in fp32 for 256 of those.
TRAINED_BYTES = 4 + 4 + 8  # of a trained parameter: weight, gradient, AdamW's two moments; all fp32
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
        adapter=trainable * TRAINED_BYTES,
        activations=kept,
        logits=rows * supervised * int(config.vocab_size) * (width + 4 + 4),
    )


def memory_of_each(
    whole: MemoryEstimate, *, engine: str, devices: int, embeddings: int, layers: int
) -> MemoryEstimate:
    """What each of several devices needs, of which ``whole`` is what one alone would.

    DDP keeps everything on each, and buckets of the gradients' size beside them. ZeRO stage 2
    shards gradients and moments; an adapter is gathered whole for a pass, with its gradients, and
    the base model is whole. FSDP2 (ZeRO stage 3) shards the base model as well: two layers are
    gathered at a time, the one that computes and the next, and the embeddings for a whole pass.

    Args:
        whole: Of one device with the rows that each of them has in a micro-batch.
        engine: ``ddp``, ``zero2``, ``zero3`` or ``fsdp2``.
        devices: How many share the run.
        embeddings: Bytes of the weights that belong to no layer.
        layers: Of the model.
    """
    if devices == 1:
        return whole
    trainable = whole.adapter // TRAINED_BYTES
    if engine == "ddp":
        return replace(whole, adapter=whole.adapter + 4 * trainable)
    sharded = whole.adapter // devices
    if engine == "zero2":
        return replace(whole, adapter=sharded + 8 * trainable)
    gathered = 2 * max(0, whole.weights - embeddings) // layers + embeddings
    return replace(
        whole,
        weights=min(whole.weights, whole.weights // devices + gathered),
        adapter=sharded + 2 * 8 * trainable // layers,
    )
