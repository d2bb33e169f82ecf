"""The memory of a device during training, by purpose, and of each of several."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TRAINED_BYTES = 4 + 4 + 8  # per trained parameter: weight, gradient, AdamW's two moments, in fp32
# NF4 has a one-byte scale per 64 weights, and an fp32 scale per 256 of those.
QUANTIZED_BYTES = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by kind.

    ``adapter``: weights, gradients and AdamW's two moments of the trainable parameters.
    ``activations``: the most that the passes of one micro-batch allocate, logits included.
    ``process``: Python, its libraries and the rows, where they share the memory (on a CPU).
    ``heap``: what the C library cannot use again of freed tensors (on a CPU).
    """

    weights: int
    adapter: int
    activations: int
    process: int = 0
    heap: int = 0

    @property
    def total(self) -> int:
        """The sum of all kinds."""
        return self.weights + self.adapter + self.activations + self.process + self.heap


def weight_bytes(
    parameters: int, *, embeddings: int, dtype: str, quantization: str | None = None
) -> int:
    """Bytes of a base model's weights.

    Args:
        parameters: Their number.
        embeddings: The number of those that quantization leaves as they are.
        dtype: Of those that are not quantized.
        quantization: ``4bit`` or ``8bit``.
    """
    inner = QUANTIZED_BYTES[quantization] if quantization is not None else BYTES[dtype]
    return int(embeddings * BYTES[dtype] + (parameters - embeddings) * inner)


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
    whole: MemoryEstimate,
    *,
    engine: str,
    devices: int,
    embeddings: int,
    layers: int,
    offload: bool = False,
    copies: int = 1,
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
        offload: Whether the shards wait elsewhere.
        copies: Of the largest layer or embedding, while it is gathered: gloo makes three more.
    """
    if devices == 1:
        return whole
    trainable = whole.adapter // TRAINED_BYTES
    if engine == "zero2":
        return replace(whole, adapter=whole.adapter // devices + 8 * trainable)
    averaged = replace(whole, adapter=whole.adapter + 4 * trainable)
    if engine == "ddp":
        return averaged
    layer = max(0, whole.weights - embeddings) // layers
    copied = (copies - 1) * max(layer, embeddings)
    shard = 0 if offload else whole.weights // devices
    held = min(whole.weights, shard + 2 * layer + embeddings)
    return replace(averaged, weights=held + copied)
