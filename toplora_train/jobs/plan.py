"""``plan=true``: everything that is known before the first step, without loading a weight."""

from __future__ import annotations

from dataclasses import asdict

import torch
from rich.console import Console

from toplora_train.adapters.attach import attach_adapter, trainable_parameters_by_module
from toplora_train.config.schema import RunConfig
from toplora_train.data.batches import padding_fraction
from toplora_train.jobs.alternatives import compare_adapters
from toplora_train.jobs.budget import within_budget
from toplora_train.jobs.device import open_accelerator
from toplora_train.jobs.engines import refuse_unfit_engine
from toplora_train.jobs.learning import padded_together, rows_at_once
from toplora_train.jobs.material import Material, prepare, total_steps
from toplora_train.jobs.objective import load_base
from toplora_train.models.memory import estimate_memory
from toplora_train.report.plan import Plan, show_plan
from toplora_train.train.order import remaining_batches
from toplora_train.train.signals import interrupt_at_once

COMPUTE = {"bf16": "bfloat16", "fp16": "float16"}


def run(config: RunConfig) -> None:
    """Show the plan of a run on the terminal.

    Raises:
        UserError: the run could not start as it is configured.
    """
    interrupt_at_once()
    open_accelerator(device=config.launch.device, mixed_precision=config.trainer.mixed_precision)
    asked = config.launch.processes
    refuse_unfit_engine(config, processes=torch.cuda.device_count() if asked == "auto" else asked)
    show_plan(make_plan(config, prepare(config, weights=False)), Console())


def make_plan(config: RunConfig, material: Material) -> Plan:
    """Count on the meta device, estimate from shapes, render one example."""
    asked = config.adapter
    config, fitted = within_budget(config, material)
    trainer = config.trainer
    model = load_base(config, material.location, material.objective.head, meta=True)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    comparison = compare_adapters(model, asked)
    adapted = attach_adapter(model, config.adapter, seed=config.seed)
    trainable = trainable_parameters_by_module(adapted)

    steps = total_steps(config, len(material.train))
    lengths = [len(example.input_ids) for example in material.train]
    batches = [
        batch
        for _, _, batch in remaining_batches(
            lengths,
            after=0,
            until=steps,
            batch_size=trainer.batch_size,
            group_by_length=trainer.group_by_length,
            seed=config.seed,
        )
    ]
    memory = estimate_memory(
        model.config,
        parameters=base_parameters,
        trainable=sum(trainable.values()),
        dtype=config.model.dtype,
        compute_dtype=COMPUTE.get(trainer.mixed_precision, config.model.dtype),
        rows=rows_at_once(trainer),
        tokens=max(lengths),
        supervised=max(example.supervised for example in material.train),
        activation_checkpointing=trainer.activation_checkpointing,
    )
    return Plan(
        config=asdict(config),
        model=f"{material.location.name} ({material.location.revision})",
        base_parameters=base_parameters,
        trainable=trainable,
        rows=len(material.train),
        validation_rows=len(material.validation),
        dropped_rows=material.encoded.dropped_rows,
        truncated_rows=material.encoded.truncated_rows,
        steps=steps,
        tokens=sum(lengths[row] for batch in batches for row in batch),
        supervised_tokens=sum(material.train[row].supervised for b in batches for row in b),
        padding_fraction=padding_fraction(
            lengths, batches, micro_batch_size=padded_together(trainer)
        ),
        longest=max(lengths),
        memory=asdict(memory),
        tests={test_set.name: len(test_set.rows.rows) for test_set in material.test_sets},
        example=material.objective.render(material.train[0]),
        fit=fitted,
        comparison=comparison,
    )
