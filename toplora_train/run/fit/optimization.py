"""The optimizer, learning rate and micro-batch size of a configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import nn

from toplora_train.config.check import ELEMENTWISE, OPTIMIZERS
from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import OptimizerSettings, RunConfig, TrainerSettings
from toplora_train.models.compiled import compiled_layers
from toplora_train.models.liger import liger_layers
from toplora_train.run.prepare.run_data import RunData
from toplora_train.train.find_micro_batch_size import find_micro_batch_size, longest_of
from toplora_train.train.optimizer import LORA_PLUS, build_optimizer
from toplora_train.train.processes import own_random_state, set_own_random_state
from toplora_train.train.proofs import prove_layers, prove_packing
from toplora_train.train.schedule import learning_rate_factor, warmup_length

PROOF_ROWS = 2
CLEAN = "clean"


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters; LoRA+ is a multiplier for B.

    Raises:
        UserError: The settings do not fit the adapter (also raised for a model on the meta device).
    """
    multipliers = dict(settings.lr_multipliers or {})
    if settings.ratio is not None:
        multipliers[LORA_PLUS] = settings.ratio
    return build_optimizer(
        model,
        name=settings.name,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        lr_multipliers=multipliers,
        no_decay=settings.no_decay or (),
        **(settings.settings or {}),
    )


def learning_rate(
    settings: OptimizerSettings, *, total_steps: int, protocol: str = CLEAN
) -> Callable[[int], float]:
    """The learning rate as a function of the step; a legacy protocol's warm-up starts at zero.

    Raises:
        UserError: It is zero in every step.
    """
    warmup = warmup_length(total_steps, settings.warmup_steps, settings.warmup_ratio)
    from_zero = protocol != CLEAN
    if from_zero and total_steps == 1 and warmup > 0:
        raise UserError(
            f"the learning rate would be 0 in the only step of the run: evaluation.protocol="
            f"{protocol} starts the warm-up at 0; set optimizer.warmup_steps=0, or train for longer"
        )
    return lambda step: (
        settings.lr
        * learning_rate_factor(
            step,
            total_steps=total_steps,
            warmup=min(warmup, total_steps),
            schedule=settings.schedule,
            from_zero=from_zero,
        )
    )


def adjustments(config: RunConfig, *, total_steps: int) -> list[str]:
    """The settings that a run adjusts because they do not fit it, or that cost it, a line each."""
    lines = []
    warmup = config.optimizer.warmup_steps
    if warmup is not None and warmup > total_steps:
        peak = learning_rate(
            config.optimizer, total_steps=total_steps, protocol=config.evaluation.protocol
        )(total_steps)
        lines.append(
            f"optimizer.warmup_steps: {warmup} steps are more than the run's {total_steps}; the "
            f"warm-up is shortened to {total_steps}, and the learning rate reaches {peak:.3g} "
            f"of {config.optimizer.lr:g}"
        )
    micro, batch = config.trainer.micro_batch_size, config.trainer.batch_size
    if micro != "auto" and micro > batch:
        lines.append(
            f"trainer.micro_batch_size is lowered from {micro} to {batch}, trainer.batch_size: a "
            "micro-batch cannot be larger than the batch"
        )
    if config.model.dtype == "bfloat16" and (whole := _trained_whole(config)):
        lines.append(
            f"{whole} of the model is trained whole, in the model's bfloat16, where a step below "
            "1/256 of a weight can be lost; model.dtype=float32 with "
            "trainer.mixed_precision=bf16 trains it in full"
        )
    return lines


def _trained_whole(config: RunConfig) -> str:
    """What is trained beside the adapter."""
    named = config.adapter.get("modules_to_save") or ()
    head = ["the head"] if head_task(config) is not None else []
    embedding = ["the embedding"] if config.model.resize_embeddings else []
    return ", ".join([*head, *embedding, *named])


def micro_batch_size_of(
    model: nn.Module, trainer: TrainerSettings, run_data: RunData, *, accelerator: Accelerator
) -> int:
    """The rows per forward pass: as configured, or with ``auto`` the most that fit every rank."""
    if trainer.micro_batch_size != "auto":
        return rows_at_once(trainer)
    return find_micro_batch_size(
        model,
        run_data.train,
        most=math.ceil(trainer.batch_size / accelerator.num_processes),
        collate=run_data.objective.training_collate,
        loss=run_data.objective.loss,
        accelerator=accelerator,
    )


def prove_batches(
    model: nn.Module, trainer: TrainerSettings, run_data: RunData, *, accelerator: Accelerator
) -> None:
    """Verify before the first step, on the longest rows, that packing does not change the loss.

    Raises:
        UserError: It does.
    """
    if trainer.batching == "packed":
        prove_packing(
            model,
            longest_of(run_data.train, PROOF_ROWS),
            padded=run_data.objective.collate,
            packed=run_data.objective.training_collate,
            loss=run_data.objective.loss,
            accelerator=accelerator,
        )


def training_layers(
    model: nn.Module, trainer: TrainerSettings, run_data: RunData, *, accelerator: Accelerator
) -> AbstractContextManager[None]:
    """Change how the layers are computed inside this context, after verifying their results.

    Raises:
        UserError: Compiling or Liger's kernels change the results, or fail.
    """
    used = ["trainer.liger=true"] if trainer.liger else []
    if trainer.compile is not None:
        used.append(f"trainer.compile={trainer.compile}")
    if used:
        longest = longest_of(run_data.train, PROOF_ROWS)
        before = own_random_state(accelerator.device)
        prove_layers(
            model,
            run_data.objective.training_collate(longest),
            settings=" ".join(used),
            off="trainer.liger=false trainer.compile=null",
            changed=changed_layers(model, trainer),
            loss=run_data.objective.loss,
            accelerator=accelerator,
        )
        set_own_random_state(before, accelerator.device)
    return changed_layers(model, trainer)


@contextmanager
def changed_layers(model: nn.Module, trainer: TrainerSettings) -> Iterator[None]:
    """Inside, the layers are computed by Liger's kernels and compiled, where it is configured."""
    with (
        liger_layers(model) if trainer.liger else nullcontext(),
        compiled_layers(model, trainer.compile),
    ):
        yield


def validate_compilation(config: RunConfig, *, processes: int) -> None:
    """Check that compilation is possible: no activation checkpointing, no sharding.

    Raises:
        UserError: Names the conflicting setting.
    """
    if config.trainer.compile is None:
        return
    if config.trainer.activation_checkpointing:
        raise UserError(
            "trainer.compile: torch does not compile layers that recompute their activations; use "
            "trainer.compile=null or trainer.activation_checkpointing=false"
        )
    if config.launch.engine != "ddp" and processes > 1:
        raise UserError(
            "trainer.compile does not support sharded tensors; use launch=ddp or "
            "trainer.compile=null"
        )


def validate_optimizer(config: RunConfig, *, processes: int) -> None:
    """Check that the optimizer supports the engine: some need whole matrices, or one process.

    Raises:
        UserError: Names what to use instead.
    """
    name = config.optimizer.name
    if name == "lorsum" and processes > 1:
        raise UserError(
            "optimizer=lorsum reads every token's inputs and gradients, which one process has only "
            "of its own rows; start one process, or use another optimizer"
        )
    for key, off in {"compile": None, "mixed_precision": "no"}.items() if name == "lorsum" else ():
        value = getattr(config.trainer, key)
        if value not in (off, "bf16"):  # hooks are not compiled; fp16's gradients are scaled
            raise UserError(
                f"optimizer=lorsum does not work with trainer.{key}={value}; leave it out, or use "
                "another optimizer"
            )
    whole = name in OPTIMIZERS and name not in ELEMENTWISE
    if whole and config.launch.engine == "zero2" and processes > 1:
        raise UserError(
            f"optimizer={name} needs whole matrices, but launch=zero2 shards the adapter's; use "
            "launch=ddp, launch=fsdp2 or optimizer=adamw"
        )


def padded_together(trainer: TrainerSettings) -> int:
    """The number of rows that are padded to a common length."""
    return 1 if trainer.batching == "packed" else rows_at_once(trainer)


def rows_at_once(trainer: TrainerSettings) -> int:
    """The rows of a forward pass; with ``auto``, their upper bound."""
    if trainer.micro_batch_size == "auto":
        return trainer.batch_size
    return min(trainer.micro_batch_size, trainer.batch_size)
