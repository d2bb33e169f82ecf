"""The optimizer, learning rate and micro-batch that a configuration asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.config.schema import OptimizerSettings, RunConfig, TrainerSettings
from toplora_train.models.compiled import compiled_layers
from toplora_train.run.prepare.run_data import RunData
from toplora_train.train.find_micro_batch_size import find_micro_batch_size, longest_first
from toplora_train.train.optimizer import LORA_PLUS, build_optimizer
from toplora_train.train.processes import own_random_state, set_own_random_state
from toplora_train.train.proofs import prove_compiled, prove_packing
from toplora_train.train.schedule import learning_rate_factor, warmup_length

PROOF_ROWS = 2
CLEAN = "clean"


def make_optimizer(
    model: nn.Module, settings: OptimizerSettings, *, device_type: str
) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters; LoRA+ is a multiplier for B.

    Raises:
        UserError: the settings do not fit the adapter; a model on the meta device shows it as well.
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
        device_type=device_type,
        lr_multipliers=multipliers,
        no_decay=settings.no_decay or (),
    )


def learning_rate(
    settings: OptimizerSettings, *, total_steps: int, protocol: str = CLEAN
) -> Callable[[int], float]:
    """The learning rate as a function of the step; a legacy protocol's warm-up starts at zero.

    Raises:
        UserError: it is zero in every step.
    """
    asked = warmup_length(total_steps, settings.warmup_steps, settings.warmup_ratio)
    from_zero = protocol != CLEAN
    if from_zero and total_steps == 1 and asked > 0:
        raise UserError(
            f"the learning rate would be 0 in the only step of the run: evaluation.protocol="
            f"{protocol} starts the warm-up at 0; set optimizer.warmup_steps=0, or train for longer"
        )
    return lambda step: (
        settings.lr
        * learning_rate_factor(
            step,
            total_steps=total_steps,
            warmup=min(asked, total_steps),
            schedule=settings.schedule,
            from_zero=from_zero,
        )
    )


def adjustments(config: RunConfig, *, total_steps: int) -> list[str]:
    """What a run does otherwise than its settings say, because they do not fit it: a line each."""
    lines = []
    warmup = config.optimizer.warmup_steps
    if warmup is not None and warmup > total_steps:
        peak = learning_rate(
            config.optimizer, total_steps=total_steps, protocol=config.evaluation.protocol
        )(total_steps)
        lines.append(
            f"optimizer.warmup_steps: {warmup} steps are more than the run's {total_steps}; the "
            f"warm-up is shortened to {total_steps}, and the learning rate ends at {peak:.3g} "
            f"of {config.optimizer.lr:g}"
        )
    micro, batch = config.trainer.micro_batch_size, config.trainer.batch_size
    if micro != "auto" and micro > batch:
        lines.append(
            f"trainer.micro_batch_size is lowered from {micro} to {batch}, trainer.batch_size: a "
            "forward pass takes no more rows than an optimizer step"
        )
    return lines


def micro_batch_size_of(
    model: nn.Module, trainer: TrainerSettings, run_data: RunData, *, accelerator: Accelerator
) -> int:
    """The rows per forward pass: as asked, or with ``auto`` the most that fit every process."""
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
    """Show before the first step, on the longest rows, that packing them changes nothing.

    Raises:
        UserError: it does.
    """
    if trainer.batching == "packed":
        prove_packing(
            model,
            longest_first(run_data.train)[:PROOF_ROWS],
            padded=run_data.objective.collate,
            packed=run_data.objective.training_collate,
            loss=run_data.objective.loss,
            accelerator=accelerator,
        )


def training_layers(
    model: nn.Module, trainer: TrainerSettings, run_data: RunData, *, accelerator: Accelerator
) -> AbstractContextManager[None]:
    """Inside, the layers are compiled, if that is asked for and proven to change nothing.

    Raises:
        UserError: it changes something, or they cannot be compiled.
    """
    if trainer.compile is not None:
        longest = longest_first(run_data.train)[:PROOF_ROWS]
        before = own_random_state(accelerator.device)
        prove_compiled(
            model,
            run_data.objective.training_collate(longest),
            backend=trainer.compile,
            compiled=compiled_layers(model, trainer.compile),
            loss=run_data.objective.loss,
            accelerator=accelerator,
        )
        set_own_random_state(before, accelerator.device)
    return compiled_layers(model, trainer.compile)


def validate_compilation(config: RunConfig, *, processes: int) -> None:
    """Refuse to compile where torch would leave most uncompiled, or where it was never proven.

    Raises:
        UserError: Names the setting that is in the way.
    """
    if config.trainer.compile is None:
        return
    if config.trainer.activation_checkpointing:
        raise UserError(
            "trainer.compile: layers that recompute their activations are run uncompiled by torch; "
            "use trainer.compile=null or trainer.activation_checkpointing=false"
        )
    if config.launch.engine != "ddp" and processes > 1:
        raise UserError(
            "trainer.compile is not built for tensors that are shared out; use launch=ddp or "
            "trainer.compile=null"
        )


def validate_optimizer(config: RunConfig, *, processes: int) -> None:
    """Refuse Muon where a process holds a part of each matrix: it needs the whole of it.

    Raises:
        UserError: Names what to use instead.
    """
    engine = config.launch.engine
    if config.optimizer.name == "muon" and engine != "ddp" and processes > 1:
        raise UserError(
            f"optimizer=muon needs whole matrices, which launch={engine} shares out; use "
            "launch=ddp or optimizer=adamw"
        )


def padded_together(trainer: TrainerSettings) -> int:
    """The rows that are padded to one length."""
    return 1 if trainer.batching == "packed" else rows_at_once(trainer)


def rows_at_once(trainer: TrainerSettings) -> int:
    """The rows of a forward pass, or the most they can be, for what is told before it is known."""
    if trainer.micro_batch_size == "auto":
        return trainer.batch_size
    return min(trainer.micro_batch_size, trainer.batch_size)
