"""Estimate the memory needed for training, from shapes alone."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TRAINED_BYTES = 4 + 4 + 8  # per trained parameter: weight, gradient, AdamW's two moments, in fp32
# NF4 has a one-byte scale per 64 weights, and an fp32 scale per 256 of those.
QUANTIZED_BYTES = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by kind.

    ``adapter``: weights, gradients and AdamW's two moments of the trainable parameters.
    ``activations``: those kept for the backward pass of one micro-batch of the longest rows.
    ``process``: Python, its libraries and the rows, where they share the memory (on a CPU).
    """

    weights: int
    adapter: int
    activations: int
    logits: int
    process: int = 0

    @property
    def total(self) -> int:
        """The sum of all kinds."""
        return self.weights + self.adapter + self.activations + self.logits + self.process


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
    process: int = 0,
) -> MemoryEstimate:
    """Estimate for a frozen decoder with a gated feed-forward block.

    A frozen linear layer keeps only what its adapter needs; norms, rotary embeddings, attention and
    the gated product keep about ``12 d + 3 f`` values per token and layer (d hidden size, f
    feed-forward width); with activation checkpointing that of one layer, plus ``d`` per layer.
    Supervised logits exist once, in fp32, where their gradient takes their place; in another dtype
    also as computed, and as the gradient of that.

    Args:
        config: the model's transformers config.
        parameters: parameters of the base model.
        trainable: trainable parameters.
        dtype: dtype of the base model's weights.
        compute_dtype: dtype of the activations.
        rows: rows per micro-batch.
        tokens: tokens of the longest row.
        supervised: positions whose logits are computed, per row.
        activation_checkpointing: whether layers are recomputed.
        quantization: ``4bit`` or ``8bit``, of all weights except embeddings.
        process: bytes that the process takes without a model, if they are in the same memory.
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
    vocabulary = int(getattr(config, "vocab_size", 0))  # a model of images has none
    tables = 1 if getattr(config, "tie_word_embeddings", False) else 2
    embeddings = min(parameters, tables * vocabulary * hidden)
    inner = QUANTIZED_BYTES[quantization] if quantization is not None else BYTES[dtype]
    return MemoryEstimate(
        weights=int(embeddings * BYTES[dtype] + (parameters - embeddings) * inner),
        adapter=trainable * TRAINED_BYTES,
        activations=kept,
        logits=rows * supervised * vocabulary * (4 if width == 4 else 4 + 2 * width),
        process=process,
    )


def resident_memory() -> int:
    """The bytes of this process that are in memory now; elsewhere than on Linux the most so far."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return peak_resident_memory()


def peak_resident_memory() -> int:
    """The most bytes of this process that have been in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_of_each(
    whole: MemoryEstimate, *, engine: str, devices: int, embeddings: int, layers: int
) -> MemoryEstimate:
    """The memory per device, given the estimate ``whole`` for a single one.

    DDP replicates everything and adds buckets of the gradients' size. ZeRO stage 2 shards gradients
    and moments; the adapter is gathered whole for a pass, with its gradients, and the base model is
    replicated. FSDP2 (ZeRO stage 3) shards the base model: two layers are gathered at a time, the
    current one and the next, and the embeddings, if tied, for a whole pass; the adapter is as with
    DDP.

    Args:
        whole: The estimate for a single device with the same micro-batch.
        engine: ``ddp``, ``zero2``, ``zero3`` or ``fsdp2``.
        devices: The number of devices.
        embeddings: Bytes of the weights outside the layers.
        layers: The model's number of layers.
    """
    if devices == 1:
        return whole
    trainable = whole.adapter // TRAINED_BYTES
    if engine == "zero2":
        return replace(whole, adapter=whole.adapter // devices + 8 * trainable)
    averaged = replace(whole, adapter=whole.adapter + 4 * trainable)
    if engine == "ddp":
        return averaged
    gathered = 2 * max(0, whole.weights - embeddings) // layers + embeddings
    return replace(averaged, weights=min(whole.weights, whole.weights // devices + gathered))
