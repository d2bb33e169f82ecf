"""The memory of a run's training step on each device, from a simulated step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from peft import PeftModel

from toplora_train.config.errors import one_line
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.memory import (
    BYTES,
    TRAINED_BYTES,
    MemoryEstimate,
    memory_of_each,
    weight_bytes,
)
from toplora_train.run.fit.optimization import rows_at_once
from toplora_train.run.platform.cpu_malloc import HOLES
from toplora_train.run.prepare.run_data import RunData
from toplora_train.train.find_micro_batch_size import longest_of
from toplora_train.train.losses import label_loss, value_loss
from toplora_train.train.simulate import simulated_step_bytes
from toplora_train.train.step import Batch, Loss, supervised_loss

COMPUTE = {"bf16": "bfloat16", "fp16": "float16"}
GLOO_COPIES = 4  # see benchmarks/sharded_memory.py
MakeBatch = Callable[[int], Batch]
"""The longest rows of a run, as many as given, in a batch."""


def compute_dtype(config: RunConfig) -> str:
    """The dtype of the products, by torch's name."""
    return COMPUTE.get(config.trainer.mixed_precision, config.model.dtype)


class UnknownStepError(Exception):
    """A step could not be simulated; says why."""


@dataclass(frozen=True)
class StepMemory:
    """What a step of a run needs, with any number of devices.

    Attributes:
        config: The run.
        parameters: Parameters of the base model.
        embeddings: Those of them in embeddings; tied ones are counted once.
        trainable: Parameters that are trained.
        layers: Layers of the base model.
        activations: Bytes that a pass of so many of the longest rows allocates.
        process: Bytes that the process takes before the model is loaded, if they are in the same
            memory.
    """

    config: RunConfig
    parameters: int
    embeddings: int
    trainable: int
    layers: int
    activations: Callable[[int], int]
    process: int = 0

    def of_each(self, devices: int, engine: str) -> MemoryEstimate:
        """The memory of one of ``devices``.

        Raises:
            UnknownStepError: The model does not run without values.
        """
        config = self.config
        rows = min(rows_at_once(config.trainer), math.ceil(config.trainer.batch_size / devices))
        activations = self.activations(rows)
        returned = config.trainer.activation_checkpointing or (
            engine in ("fsdp2", "zero3") and devices > 1
        )
        whole = MemoryEstimate(
            weights=weight_bytes(
                self.parameters,
                embeddings=self.embeddings,
                dtype=config.model.dtype,
                quantization=config.model.quantization,
            ),
            adapter=self.trainable * TRAINED_BYTES,
            activations=activations,
            process=self.process,
            heap=round(HOLES * activations) if self.process and not returned else 0,
        )
        return memory_of_each(
            whole,
            engine=engine,
            devices=devices,
            embeddings=self.embeddings * BYTES[config.model.dtype],
            layers=self.layers,
            offload=config.launch.offload is not None,
            copies=GLOO_COPIES if self.process else 1,
        )


def step_memory(
    adapted: PeftModel,
    config: RunConfig,
    make_batch: MakeBatch,
    loss: Loss,
    *,
    parameters: int,
    embeddings: int,
    process: int,
) -> StepMemory:
    """Of a run's step.

    Args:
        adapted: The model with its adapter, on the meta device, as the optimizer trains it.
        config: The run.
        make_batch: Makes the batch of a pass.
        loss: Its loss.
        parameters: The base model's parameters.
        embeddings: Those of its embeddings, see :func:`embedding_parameters`.
        process: Bytes that the process takes besides, if they are in the device's memory.
    """
    base: Any = adapted.get_base_model()
    dtype: torch.dtype = getattr(torch, compute_dtype(config))
    if config.trainer.activation_checkpointing:
        checkpoint_activations(base)

    @cache
    def activations(rows: int) -> int:
        try:
            batch = make_batch(rows)
            return simulated_step_bytes(adapted, batch, loss, dtype, on_gpu=not process)
        except Exception as error:  # a model's own code may raise anything
            raise UnknownStepError(f"{type(error).__name__}: {one_line(error)}") from error

    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return StepMemory(
        config,
        parameters=parameters,
        embeddings=embeddings,
        trainable=trainable,
        layers=base.config.num_hidden_layers,
        activations=activations,
        process=process,
    )


def longest_rows(run_data: RunData) -> MakeBatch:
    """Batches of the run's own rows."""
    return lambda rows: run_data.objective.training_collate(longest_of(run_data.train, rows))


def rows_of_length(config: RunConfig, model: Any, tokens: int) -> tuple[MakeBatch, Loss]:
    """Batches of rows that are not at hand, all of a length and supervised, and their loss."""
    task = head_task(config)

    def make_batch(rows: int) -> Batch:
        if task is not None and task.image is not None:
            size = model.config.image_size
            sides = [size, size] if isinstance(size, int) else size
            inputs = {"pixel_values": torch.zeros(rows, model.config.num_channels, *sides)}
        else:
            ids = torch.zeros(rows, tokens, dtype=torch.long)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if task is None:
            return {**inputs, "labels": inputs["input_ids"]}
        return {**inputs, "labels": torch.zeros(rows, dtype=torch.long if task.choices else None)}

    if task is None:
        return make_batch, supervised_loss
    return make_batch, label_loss if task.choices else value_loss


def embedding_parameters(model: Any) -> int:
    """Weights of the input and output embeddings; tied ones are counted once."""
    tables = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if hasattr(module, "weight")  # a head replaces the output embeddings; images have none
    }
    return sum(tables.values())
