"""``plan=true``: everything that is known before the first step, without loading a weight."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.describe import trainable_parameters_by_module
from toplora_train.config.schema import RunConfig
from toplora_train.data.batches import padding_fraction
from toplora_train.jobs.alternatives import compare_adapters
from toplora_train.jobs.budget import within_budget
from toplora_train.jobs.device import open_accelerator
from toplora_train.jobs.fitting import refuse_unfit_rows
from toplora_train.jobs.learning import adjustments, padded_together, rows_at_once
from toplora_train.jobs.material import Material, prepare, total_steps
from toplora_train.jobs.objective import load_base
from toplora_train.jobs.refusals import refuse_unfit_settings
from toplora_train.jobs.start_from import find_start
from toplora_train.models.memory import MemoryEstimate, estimate_memory
from toplora_train.models.work import product_speed, training_flops
from toplora_train.report.plan import Plan, show_plan
from toplora_train.train.order import remaining_batches
from toplora_train.train.signals import interrupt_at_once

COMPUTE = {"bf16": "bfloat16", "fp16": "float16"}
CPU = torch.device("cpu")
MOST_TOKENS = 4096  # of the product whose speed is measured


def run(config: RunConfig) -> None:
    """Show the plan of a run on the terminal.

    Raises:
        UserError: the run could not start as it is configured.
    """
    interrupt_at_once()
    asked = config.launch.processes
    processes = max(1, torch.cuda.device_count()) if asked == "auto" else asked
    refuse_unfit_settings(config, processes=processes)
    accelerator = open_accelerator(
        device=config.launch.device, mixed_precision=config.trainer.mixed_precision
    )
    material = prepare(config, weights=False)
    console = Console()
    for line in adjustments(config, total_steps=total_steps(config, material.lengths)):
        console.print(line, highlight=False, soft_wrap=True)
    show_plan(make_plan(config, material, device=accelerator.device, processes=processes), console)


def make_plan(
    config: RunConfig,
    material: Material,
    *,
    device: torch.device = CPU,
    processes: int = 1,
) -> Plan:
    """Count on the meta device, estimate from shapes, render one example."""
    asked = config.adapter
    config, fitted = within_budget(config, material)
    trainer = config.trainer
    model = load_base(config, material.location, material.objective.head, meta=True)
    refuse_unfit_rows(model, material)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    comparison = compare_adapters(model, asked)
    origin = find_start(config, model)
    adapted = attach_adapter(model, config.adapter, seed=config.seed)
    trainable = trainable_parameters_by_module(adapted)

    lengths = material.lengths
    steps = total_steps(config, lengths)
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
    trained_on = [lengths[row] for batch in batches for row in batch]
    supervised = sum(material.train[row].supervised for batch in batches for row in batch)
    memory = planned_memory(
        config,
        material,
        model.config,
        parameters=base_parameters,
        trainable=sum(trainable.values()),
    )
    embeddings = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None  # a head for classes has taken the place of the output's
    }
    flops = training_flops(
        trained_on,
        supervised=supervised if material.objective.head is None else 0,
        body=base_parameters - sum(embeddings.values()),
        hidden=model.config.hidden_size,
        layers=model.config.num_hidden_layers,
        vocabulary=model.config.vocab_size,
        activation_checkpointing=trainer.activation_checkpointing,
    )
    speed = product_speed(
        device,
        getattr(torch, COMPUTE.get(trainer.mixed_precision, config.model.dtype)),
        tokens=min(MOST_TOKENS, rows_at_once(trainer) * max(lengths)),
        hidden=model.config.hidden_size,
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
        tokens=sum(trained_on),
        supervised_tokens=supervised,
        padding_fraction=padding_fraction(
            lengths, batches, micro_batch_size=padded_together(trainer)
        ),
        longest=max(lengths),
        memory=asdict(memory),
        flops=flops,
        # Processes on a CPU share its cores, which the speed was measured on.
        flops_per_second=speed * (processes if device.type == "cuda" else 1),
        tests={test_set.name: len(test_set.rows.rows) for test_set in material.test_sets},
        example=material.objective.render(material.train[0]),
        fit=fitted,
        comparison=comparison,
        tokens_from=material.tokens_from,
        start=str(origin) if origin is not None else None,
    )


def planned_memory(
    config: RunConfig,
    material: Material,
    shape: Any,
    *,
    parameters: int,
    trainable: int,
) -> MemoryEstimate:
    """What a process will need, from shapes; under FSDP2 as well, which loads the model whole.

    Args:
        config: The run.
        material: Its rows, of which the longest count.
        shape: The model's own configuration (transformers).
        parameters: Of the base model.
        trainable: Of the adapter.
    """
    trainer = config.trainer
    return estimate_memory(
        shape,
        parameters=parameters,
        trainable=trainable,
        dtype=config.model.dtype,
        compute_dtype=COMPUTE.get(trainer.mixed_precision, config.model.dtype),
        rows=rows_at_once(trainer),
        tokens=max(len(example.input_ids) for example in material.train),
        supervised=max(example.supervised for example in material.train),
        activation_checkpointing=trainer.activation_checkpointing,
        quantization=config.model.quantization,
    )
