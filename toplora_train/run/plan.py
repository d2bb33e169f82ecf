"""``plan=true``: what is known before the first step, without weights and without the network.

It depends on what is available locally: rows and tokenizer give tokens, rows alone give steps; for
well-known models and data sets the package ships shapes and numbers of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.describe import trainable_parameters_by_module
from toplora_train.config.json_file import write_json_atomically
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.data.batches import padding_fraction
from toplora_train.data.legacy import CUTOFF, SUPERVISES_PROMPT
from toplora_train.data.sources import read_rows
from toplora_train.models.availability import ModelState
from toplora_train.models.head import Head
from toplora_train.models.known import known_model, shape_as_model
from toplora_train.models.locate import ModelLocation
from toplora_train.models.memory import resident_memory
from toplora_train.models.work import training_flops
from toplora_train.report.display import plain_console, say
from toplora_train.report.plan import DeviceMemory, Parameters, Plan, Tokens, Work, show_plan
from toplora_train.run.assemble.adapter_costs import compare_adapters
from toplora_train.run.fit.optimization import (
    adjustments,
    make_optimizer,
    padded_together,
    rows_at_once,
)
from toplora_train.run.prepare.budget import within_budget_on
from toplora_train.run.prepare.eval_sets import read_eval_sets
from toplora_train.run.prepare.inputs import TEST, RowsInput, as_list, find_model, find_rows
from toplora_train.run.prepare.invocation import with_invocation
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.parsing import training_parser
from toplora_train.run.prepare.plan_target import (
    Target,
    find_target,
    launch_command,
    memory_of_devices,
    too_large,
)
from toplora_train.run.prepare.run_data import RunData, prepare, total_steps
from toplora_train.run.prepare.start_from import find_start
from toplora_train.run.prepare.step_memory import (
    StepMemory,
    UnknownStepError,
    embedding_parameters,
    longest_rows,
    rows_of_length,
    step_memory,
)
from toplora_train.run.prepare.validate_rows import validate_rows
from toplora_train.run.prepare.validate_settings import validate_settings
from toplora_train.train.sampler import remaining_batches, steps_in_epoch
from toplora_train.train.signals import interrupt_at_once

SHOWN = 3  # training rows
MOST_TOKENS = 4096  # in the product whose speed is measured


def run(config: RunConfig, folder: Path | None = None) -> None:
    """Show the plan of a run on the terminal.

    Args:
        config: The run.
        folder: Where ``report.json`` gets the least training time, if it is known.

    Raises:
        UserError: The run could not start as configured.
    """
    interrupt_at_once()
    wanted = config.launch.processes
    processes = max(1, torch.cuda.device_count()) if wanted == "auto" else wanted
    validate_settings(config, processes=processes)
    plan, console = make_plan(config, find_target(config)), plain_console()
    if plan.steps is not None:
        for line in adjustments(config, total_steps=plan.steps):
            say(console, line)
    show_plan(plan, console)
    if folder is not None and plan.work is not None and plan.work.bound is None:
        report = {"status": "planned", "planned_seconds": plan.work.seconds}
        write_json_atomically(folder / "report.json", report)


def make_plan(config: RunConfig, target: Target) -> Plan:
    """Locate the run's inputs, count what can be counted, and bound what cannot.

    Raises:
        UserError: The run could not start as configured.
    """
    sources, base = find_rows(config), find_model(config.model)
    run_data = _run_data(config, base, sources)
    with TemporaryDirectory() as folder:
        location = base.location or _shipped_shape(base.model, Path(folder))
        model = None if location is None else _on_meta(config, location, base, run_data)
    counts = _count_rows(config, sources, run_data)
    rows, held_out = _held_out(config, counts.training)
    tokens = _counted(config, run_data) if run_data is not None else _bounded(config, rows)
    parameters, work = None, None
    if model is not None and location is not None:
        if run_data is not None:
            validate_rows(model, run_data)
            config = with_invocation(config, run_data)
        comparison = compare_adapters(model, config.adapter)
        config, fitted = within_budget_on(model, config)
        embeddings, total = embedding_parameters(model), model.num_parameters()
        start = find_start(config, model)
        adapted = attach_adapter(model, config.adapter, seed=config.seed)
        make_optimizer(adapted, config.optimizer)  # it may freeze some parameters, or not fit
        parameters = Parameters(
            _named(location, base),
            base=total,
            trainable=trainable_parameters_by_module(adapted),
            fit=fitted,
            start=None if start is None else str(start),
            comparison=comparison,
        )
        if tokens is not None:
            batches = (
                (longest_rows(run_data), run_data.objective.loss)
                if run_data is not None
                else rows_of_length(config, model, tokens.longest)
            )
            step = step_memory(
                adapted,
                config,
                *batches,
                parameters=total,
                embeddings=embeddings,
                process=resident_memory() if target.shares_memory else 0,
            )
            work = _work(config, target, tokens, model.config, step)
    return Plan(
        config=asdict(config),
        inputs=as_list(base, sources),
        rows=rows,
        validation_rows=held_out,
        steps=_steps(config, rows, run_data),
        tests=counts.tests,
        parameters=parameters,
        tokens=_tokens(config, run_data, tokens) if run_data is not None else None,
        work=work,
        unknown=_unknown(config, base, sources, parameters, run_data),
    )


# What is available locally


def _run_data(config: RunConfig, base: ModelState, sources: Sequence[RowsInput]) -> RunData | None:
    """The rows as tokens; None while they or the tokenizer are not available."""
    needed = [one for one in sources if one.task is None or head_task(config) is not None]
    if base.location is None or not base.tokenizer or not all(one.at_hand for one in needed):
        return None
    return prepare(_with_local_tests(config, sources), weights=False)


def _with_local_tests(config: RunConfig, sources: Sequence[RowsInput]) -> RunConfig:
    """The run without the tasks whose rows have to be downloaded."""
    here = {one.task for one in sources if one.at_hand}
    return replace(
        config,
        task={name: task for name, task in config.task.items() if name in here},
        dataset=replace(config.dataset, test=config.dataset.test if TEST in here else None),
    )


def _shipped_shape(path: str, folder: Path) -> ModelLocation | None:
    known = known_model(path)
    return None if known is None else shape_as_model(path, known.shape, folder)


def _on_meta(
    config: RunConfig, location: ModelLocation, base: ModelState, run_data: RunData | None
) -> PreTrainedModel:
    task = head_task(config)
    if run_data is not None:
        head = run_data.objective.head
    else:  # the pad token does not affect any count
        pad = None if task is None or task.image is not None else 0
        head = None if task is None else Head(tuple(task.choices), pad_token_id=pad)
    if not base.tokenizer:  # how many rows it needs is not known
        config = replace(config, model=replace(config.model, resize_embeddings=False))
    return load_base(config, location, head, meta=True)


def _named(location: ModelLocation, base: ModelState) -> str:
    own = location is base.location and location.folder is not None
    return f"{location.name} ({'local config.json, ' if own else ''}{location.revision})"


# Rows and steps


@dataclass(frozen=True)
class _Counts:
    """Training rows before some are held out, and each task's rows; None if unknown."""

    training: int | None
    tests: dict[str, int | None]


def _count_rows(
    config: RunConfig, sources: Sequence[RowsInput], run_data: RunData | None
) -> _Counts:
    """Count local rows; for others use the published number."""
    data_root = Path(config.data_root) if config.data_root else None
    here = _with_local_tests(config, sources)
    sets = (
        run_data.eval_sets
        if run_data is not None
        else read_eval_sets(here.task, here.dataset, here.evaluation, data_root=data_root)
    )
    read = {one.name: len(one.rows.rows) for one in sets}
    tests = {one.task: read.get(one.task, one.published) for one in sources if one.task is not None}
    if run_data is not None:
        return _Counts(len(run_data.encoded.examples), tests)
    training = [_count_source(config, one) for one in sources if one.task is None]
    known = [count for count in training if count is not None]
    return _Counts(sum(known) if len(known) == len(training) else None, tests)


def _count_source(config: RunConfig, one: RowsInput) -> int | None:
    if not one.at_hand:
        return one.published
    found = read_rows(
        one.where.name,
        data_root=one.where.data_root,
        subset=one.where.subset,
        split=one.where.split,
        revision=one.where.revision,
        limit=one.limit,
        parse=training_parser(config),
    )
    return round(one.weight * len(found.rows))


def _held_out(config: RunConfig, rows: int | None) -> tuple[int | None, int]:
    """The number of training rows, and of those held out of them."""
    dataset = config.dataset
    if rows is None:
        return None, dataset.validation_rows
    held = dataset.validation_rows or round(dataset.validation_share * rows)
    return rows - held, held


def _steps(config: RunConfig, rows: int | None, run_data: RunData | None) -> int | None:
    trainer = config.trainer
    if run_data is not None:
        return total_steps(config, run_data.lengths)
    if trainer.max_tokens is not None:  # the number of steps depends on the rows
        return None
    if trainer.max_steps is not None or rows is None:
        return trainer.max_steps
    return trainer.epochs * steps_in_epoch(rows, trainer.batch_size)


# Tokens, counted or bounded


@dataclass(frozen=True)
class _TrainedTokens:
    """The tokens that go through the model: the rows' lengths, each as often as it is trained on.

    ``supervised`` counts those with a loss. ``bound`` names the assumption under which the
    numbers are upper bounds.
    """

    lengths: Sequence[int]
    supervised: int
    longest: int
    batches: Sequence[Sequence[int]] = ()
    bound: str | None = None


def _counted(config: RunConfig, run_data: RunData) -> _TrainedTokens:
    trainer, lengths, supervised = config.trainer, run_data.lengths, run_data.train.supervised
    batches = [
        batch
        for _, _, batch in remaining_batches(
            lengths,
            after=0,
            until=total_steps(config, lengths),
            batch_size=trainer.batch_size,
            group_by_length=trainer.group_by_length,
            seed=config.seed,
        )
    ]
    rows = list(chain.from_iterable(batches))
    return _TrainedTokens(
        lengths=lengths[rows].tolist(),
        supervised=int(supervised[rows].sum()),
        longest=int(lengths.max()),
        batches=batches,
    )


def _bounded(config: RunConfig, rows: int | None) -> _TrainedTokens | None:
    """Every row at the maximum length; None if the number of rows is unknown."""
    trainer, generates = config.trainer, head_task(config) is None
    legacy = config.evaluation.protocol in SUPERVISES_PROMPT
    longest = CUTOFF if legacy else config.dataset.max_length
    if trainer.max_tokens is not None:
        count = math.ceil(trainer.max_tokens / longest)
    elif trainer.max_steps is not None:
        count = trainer.max_steps * trainer.batch_size
    elif rows is not None:
        count = trainer.epochs * rows
    else:
        return None
    why = f"dataset.max_length={longest}" if not legacy else f"the legacy cut-off of {CUTOFF}"
    return _TrainedTokens(
        lengths=[longest] * count,
        supervised=longest * count if generates else count,
        longest=longest,
        bound=f"every row at {why} tokens{', all of them supervised' if generates else ''}",
    )


def _tokens(config: RunConfig, run_data: RunData, tokens: _TrainedTokens | None) -> Tokens:
    assert tokens is not None  # counted, as the rows are available
    return Tokens(
        total=sum(tokens.lengths),
        supervised=tokens.supervised,
        longest=tokens.longest,
        padding_fraction=padding_fraction(
            run_data.lengths, tokens.batches, micro_batch_size=padded_together(config.trainer)
        ),
        dropped_rows=run_data.encoded.dropped_rows,
        truncated_rows=run_data.encoded.truncated_rows,
        examples=[run_data.objective.render(one) for one in run_data.train[:SHOWN]],
        source=run_data.tokens_from,
    )


# Work and memory


def _work(
    config: RunConfig,
    target: Target,
    tokens: _TrainedTokens,
    shape: Any,
    step: StepMemory,
) -> Work:
    trainer, rows = config.trainer, rows_at_once(config.trainer)
    memory: list[DeviceMemory] = []
    unknown = None
    try:
        memory = memory_of_devices(config, step.of_each, trainable=step.trainable)
    except UnknownStepError as error:
        unknown = str(error)
    return Work(
        device=target.name,
        flops=training_flops(
            tokens.lengths,
            supervised=tokens.supervised if head_task(config) is None else 0,
            body=step.parameters - step.embeddings,
            hidden=shape.hidden_size,
            layers=step.layers,
            vocabulary=getattr(shape, "vocab_size", 0),
            activation_checkpointing=trainer.activation_checkpointing,
        ),
        flops_per_second=target.speed(min(MOST_TOKENS, rows * tokens.longest), shape.hidden_size),
        speed_from=target.speed_from,
        utilisation=target.utilisation,
        memory=memory,
        capacity=target.capacity,
        bound=tokens.bound,
        command=launch_command(config, memory, target.capacity) if memory else None,
        too_large=too_large(memory, target) if memory else None,
        unknown=unknown,
    )


# What is unknown


def _unknown(
    config: RunConfig,
    base: ModelState,
    sources: Sequence[RowsInput],
    parameters: Parameters | None,
    run_data: RunData | None,
) -> list[str]:
    lines = []
    fetching = "prefetch=true plan=true downloads them, without weights, and plans again"
    if run_data is None:
        missing = [] if all(one.at_hand for one in sources) else ["the rows"]
        missing += [] if base.tokenizer else ["the tokenizer"]
        lines.append(
            "Token counts, rows over the length limit, padding and the rendered example are "
            f"unknown until {' and '.join(missing)} are available ({fetching})."
        )
    if config.model.resize_embeddings and not base.tokenizer:
        lines.append(
            "The rows that model.resize_embeddings adds, and the embedding that is then trained, "
            f"are not among the parameters until the tokenizer is at hand ({fetching})."
        )
    if parameters is None:
        lines.append(
            f"Parameters, memory and time are unknown: the shape of {base.model} is neither "
            f"shipped nor available locally ({fetching})."
        )
    return lines
