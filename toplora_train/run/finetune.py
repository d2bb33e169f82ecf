"""A fine-tuning run, top to bottom: rows, base model, adapter, training, scores, proof, report."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters.attach import attach_adapter, kernel_of, kernel_sentence
from toplora_train.adapters.describe import describe_adapter, trainable_parameters_by_module
from toplora_train.adapters.saving import save_adapter
from toplora_train.adapters.start_from import take_start
from toplora_train.config.aside import rescue
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.json_file import write_text_atomically
from toplora_train.config.schema import LENGTH, RunConfig
from toplora_train.evaluation.ranks import Ranks
from toplora_train.evaluation.run_evaluation import Score
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.memory import resident_memory
from toplora_train.models.sharded import to_device
from toplora_train.report.card import model_card
from toplora_train.report.card_metadata import Facts
from toplora_train.report.display import say
from toplora_train.report.earlier import EarlierEnd, earlier_ends
from toplora_train.report.pages import write_pages
from toplora_train.report.record import Report, write_report
from toplora_train.report.trackers.base import NoTracker, TrackedRun, open_tracker
from toplora_train.run.assemble.general_text import read_general_text
from toplora_train.run.assemble.inspection import inspect_adapter, run_texts
from toplora_train.run.assemble.reload import probe_logits, prove_reload
from toplora_train.run.assemble.run_report import Outcome, build_report, conclusion, introduction
from toplora_train.run.assemble.scores import Scorer
from toplora_train.run.fit.best_checkpoint import BestCheckpoint, fingerprint, select
from toplora_train.run.fit.distribute import prepare_model, unwrap_model
from toplora_train.run.fit.metric_logging import Monitor, metric_logging
from toplora_train.run.fit.optimization import (
    adjustments,
    learning_rate,
    make_optimizer,
    micro_batch_size_of,
    prove_batches,
    training_layers,
)
from toplora_train.run.fit.profile import FOLDER, StepProfiler, profiling
from toplora_train.run.fit.selection_metric import VALIDATION_LOSS
from toplora_train.run.platform.console import open_console
from toplora_train.run.platform.device import (
    AUTOCAST,
    leave_process_group,
    local_ranks,
    open_accelerator,
    open_shards,
    slow_products,
)
from toplora_train.run.prepare.budget import within_budget
from toplora_train.run.prepare.data_init import show_rows
from toplora_train.run.prepare.encoding import learned_prompt
from toplora_train.run.prepare.extension import find_extension
from toplora_train.run.prepare.invocation import with_invocation
from toplora_train.run.prepare.objective import base_weights, load_base
from toplora_train.run.prepare.resume_settings import resume_settings, with_defaults
from toplora_train.run.prepare.run_data import RunData, prepare, total_steps
from toplora_train.run.prepare.same_inputs import validate_same_inputs
from toplora_train.run.prepare.start_from import StartFrom, find_start
from toplora_train.run.prepare.step_memory import (
    UnknownStepError,
    compute_dtype,
    embedding_parameters,
    longest_rows,
    step_memory,
)
from toplora_train.run.prepare.validate_rows import validate_rows
from toplora_train.run.prepare.validate_settings import validate_settings
from toplora_train.train.checkpoint import (
    TrainState,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    validate_same_settings,
)
from toplora_train.train.loop import train
from toplora_train.train.sanity_checks import Beginning
from toplora_train.train.settings import LoopSettings, TrainingData
from toplora_train.train.signals import interrupt_at_once, interrupt_later

PROBE_ROWS = 4

log = logging.getLogger(__name__)


def run(config: RunConfig, run_dir: Path) -> None:
    """Fine-tune as ``config`` says and leave adapter, predictions and report in ``run_dir``.

    Raises:
        UserError: the input is invalid, or a resumed run's settings differ; nothing was trained.
        RunFailure: the run cannot continue; what was saved is intact.
        Interrupted: a signal arrived.
    """
    interrupt_at_once()
    accelerator = open_accelerator(
        device=config.launch.device,
        mixed_precision=config.trainer.mixed_precision,
        deterministic=config.trainer.deterministic,
        save_memory=config.trainer.activation_checkpointing,
    )
    validate_settings(config, processes=accelerator.num_processes)
    first = accelerator.is_main_process  # it alone writes files and shows progress
    console = open_console(quiet=not first)
    autocast = AUTOCAST[config.trainer.mixed_precision]

    run_data = prepare(
        config,
        console=console,
        local=local_ranks(accelerator),
        barrier=accelerator.wait_for_everyone if accelerator.num_processes > 1 else None,
    )
    ranks = Ranks(accelerator.process_index, accelerator.num_processes)
    validate_same_inputs(run_data, ranks)
    config, fitted = within_budget(with_invocation(config, run_data), run_data)
    origin, planned = validate_adapter(config, run_data, accelerator)
    ends = earlier_ends(run_dir)

    def warn(line: str) -> None:
        log.warning(line)
        say(console, f"warning: {line}")

    checkpoint, start = resume_point(
        config, run_dir / "checkpoints", run_data, origin, ends, warn=warn
    )
    extension = find_extension(
        config,
        ends,
        resumed_step=start.step,
        total=total_steps(config, run_data.lengths),
        rows=len(run_data.train),
    )
    general_text = read_general_text(config, run_data.tokenizer, autocast)
    say(console, introduction(config, run_data, start))
    adjusted = adjustments(config, total_steps=total_steps(config, run_data.lengths))
    slow = slow_products(accelerator.device, compute_dtype(config))
    for line in (fitted, origin, extension, slow, *adjusted):
        if line is not None:
            say(console, str(line))

    shards = open_shards(config.launch, accelerator)
    model = load_base(config, run_data.location, run_data.objective.head, shards=shards)
    base_parameters = model.num_parameters()
    to_device(model, accelerator.device)
    scorer = Scorer(
        tokenizer=run_data.tokenizer,
        eval_sets=run_data.eval_sets,
        folder=run_dir / "predictions",
        batch_size=config.evaluation.batch_size,
        autocast_dtype=autocast,
        console=console,
        ranks=ranks,
    )
    base_scores = (
        scorer.score(
            model,
            "base",
            weights=base_weights(config, run_data.location),
            suffix=".base",
            reuse=checkpoint is not None,
        )
        # An untrained head would guess: there is nothing to score.
        if config.evaluation.base and run_data.objective.head is None
        else {}
    )

    losses_before = general_text.losses(model)
    adapted = attach_adapter(model, config.adapter, seed=config.seed)
    how = kernel_sentence(adapted, compiled=config.trainer.compile is not None)
    if how is not None:
        say(console, how)
    if checkpoint is None:
        show_rows(adapted, config, run_data)
        if origin is not None:
            take_start(adapted, origin.file)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)
    tracked = TrackedRun(run_dir, config.tracker, asdict(config), resumed_step=start.step)
    tracker = open_tracker(tracked) if first else NoTracker()
    selection = select(
        config,
        run_data,
        run_dir / "checkpoints" / "selected",
        resumed_step=start.step,
        autocast_dtype=autocast,
        silent=not first,
    )
    if first and extension is not None:  # every check has passed: the finished run ends here
        (run_dir / "report.json").unlink(missing_ok=True)
    adapted = fine_tune(
        adapted,
        config,
        run_data,
        run_dir,
        accelerator=accelerator,
        resume=(checkpoint, start),
        selection=selection,
        monitor=Monitor(tracker, console, silent=not first),
    )

    last_scores: dict[str, Score] = {}
    if selection is not None and not selection.best_is_last:
        last_scores = scorer.score(
            adapted, "last step", weights=fingerprint(adapted), suffix=".last"
        )
        selection.restore(adapted)
    adapter_dir = run_dir / "adapter"
    if first:
        save_adapter_folder(adapted, run_data.tokenizer, adapter_dir)
    scores = scorer.score(adapted, "tuned", weights=fingerprint(adapted))
    inspect_adapter(
        adapted,
        run_data.tokenizer,
        run_texts(run_dir, list(scores), scorer.ranks),
        run_dir,
        base=run_data.location.name,
        extras=config.report.extras,
        scorer=scorer,
        weights=fingerprint(adapted),
    )
    forgetting = general_text.change(losses_before, general_text.losses(adapted))
    if shards is None:
        leave_process_group(accelerator)
        if not first:
            return

    trained = sum(trainable_parameters_by_module(adapted).values())  # the optimizer may freeze some
    described = describe_adapter(adapted) | {"trainable_parameters": trained}
    probe = run_data.objective.collate(run_data.train[:PROBE_ROWS])
    trained_logits = probe_logits(adapted, probe, autocast)
    del model, adapted  # two copies of a large base model would not fit in memory
    gc.collect()  # a sharded one is held by reference cycles
    fresh = load_base(
        config,
        run_data.location,
        run_data.objective.head,
        head_seed=config.seed + 1,
        shards=shards,
    )
    proof = prove_reload(
        to_device(fresh, accelerator.device),
        adapter_dir,
        expected=trained_logits,
        batch=probe,
        dtype=autocast,
        kernel=kernel_of(config.adapter),
    )
    if shards is not None:
        leave_process_group(accelerator)
        if not first:
            return

    report = build_report(
        config,
        run_data,
        run_dir,
        Outcome(
            base_parameters=base_parameters,
            planned_memory=planned,
            described=described,
            base_scores=base_scores,
            last_scores=last_scores,
            scores=scores,
            selection=selection,
            proof=proof,
            fitted=fitted,
            start=origin,
            extension=extension,
            forgetting=forgetting,
        ),
        accelerator=accelerator,
    )
    write_everything(report, config, run_data, run_dir)
    tracker.finish(
        {f"{name}/{s.metric}": s.value for name, s in scores.items()},
        [run_dir / name for name in ("report.json", "report.md", "report.html", "metrics.csv")],
    )
    say(console, conclusion(report.to_dict(), run_dir))


def validate_adapter(
    config: RunConfig, run_data: RunData, accelerator: Accelerator
) -> tuple[StartFrom | None, int | None]:
    """Attach the adapter to a model on the meta device: mistakes show before slow work.

    Returns:
        The adapter that it starts from, if there is one, and the bytes that this process is going
        to take; None where a step cannot be simulated.
    """
    on_cpu = accelerator.device.type == "cpu"
    process = resident_memory() if on_cpu else 0
    without_weights = load_base(config, run_data.location, run_data.objective.head, meta=True)
    validate_rows(without_weights, run_data)
    origin = find_start(config, without_weights)
    parameters, embeddings = without_weights.num_parameters(), embedding_parameters(without_weights)
    adapted = attach_adapter(without_weights, config.adapter, seed=config.seed)
    make_optimizer(adapted, config.optimizer)
    step = step_memory(
        adapted,
        config,
        longest_rows(run_data),
        run_data.objective.loss,
        parameters=parameters,
        embeddings=embeddings,
        process=process,
    )
    try:
        return origin, step.of_each(accelerator.num_processes, config.launch.engine).total
    except UnknownStepError as error:
        log.info("the memory of a step is unknown: %s", error)
        return origin, None


def resume_point(
    config: RunConfig,
    checkpoints: Path,
    run_data: RunData,
    origin: StartFrom | None,
    ends: Sequence[EarlierEnd],
    *,
    warn: Callable[[str], None] = log.warning,
) -> tuple[Path | None, TrainState]:
    """The checkpoint to resume from, if there is one, and the initial state.

    ``warn`` is called with a line for each damaged checkpoint.

    Raises:
        UserError: The checkpoint was made with other settings, or an extension has none.
    """
    settings = resume_settings(
        config,
        rows_sha256=run_data.rows.sha256,
        start_sha256=origin.file.sha256 if origin is not None else None,
    )
    checkpoint = newest_checkpoint(checkpoints, warn=warn) if config.resume is not None else None
    if checkpoint is None:
        if ends:
            raise UserError(
                f"{checkpoints} has no intact checkpoint to extend the run from; the finished run "
                f"is kept in {ends[-1].folder}; train a new run in another output_dir"
            )
        return None, TrainState(settings=settings)
    start = read_state(checkpoint)
    free = LENGTH if ends else frozenset()  # an extension changes the length
    validate_same_settings(
        checkpoint, without(with_defaults(start.settings, settings), free), without(settings, free)
    )
    total = total_steps(config, run_data.lengths)
    if total < start.step:
        raise UserError(
            f"{checkpoint} is beyond the {total} steps of this run; set the length that it was "
            "extended to"
        )
    return checkpoint, replace(start, settings=settings)


def without(settings: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The settings without some keys."""
    return {key: value for key, value in settings.items() if key not in keys}


def fine_tune(
    adapted: PeftModel,
    config: RunConfig,
    run_data: RunData,
    run_dir: Path,
    *,
    accelerator: Accelerator,
    resume: tuple[Path | None, TrainState],
    selection: BestCheckpoint | None,
    monitor: Monitor,
) -> PeftModel:
    """Train the adapter; each logged step is a line of ``metrics.jsonl``."""
    checkpoint, start = resume
    trainer = config.trainer
    total = total_steps(config, run_data.lengths)
    beginning = Beginning(adapted)
    prove_batches(adapted, trainer, run_data, accelerator=accelerator)
    micro_batch_size = micro_batch_size_of(adapted, trainer, run_data, accelerator=accelerator)
    model, optimizer = prepare_model(
        adapted,
        partial(make_optimizer, settings=config.optimizer),
        engine=config.launch.engine,
        accelerator=accelerator,
    )
    # Dropout differs between processes and does not depend on what happened before.
    torch.manual_seed(config.seed * accelerator.num_processes + accelerator.process_index)
    if checkpoint is not None:
        load_checkpoint(checkpoint, model=adapted, optimizer=optimizer, accelerator=accelerator)
    settings = LoopSettings(
        total_steps=total,
        learning_rate=learning_rate(
            config.optimizer, total_steps=total, protocol=config.evaluation.protocol
        ),
        batch_size=trainer.batch_size,
        micro_batch_size=micro_batch_size,
        group_by_length=trainer.group_by_length,
        max_grad_norm=trainer.max_grad_norm,
        seed=config.seed,
        log_every=trainer.log_every,
        eval_every=trainer.eval_every,
        save_every=trainer.save_every,
        save_seconds=60 * (trainer.save_minutes or math.inf),
        keep=trainer.keep,
        checkpoints=run_dir / "checkpoints",
    )
    profiler = None
    if trainer.profile and accelerator.is_main_process and start.step < total:
        profiler = StepProfiler(
            run_dir / FOLDER,
            adapted,
            accelerator.device,
            first=start.step + 1,
            total=total,
            say=partial(say, monitor.console),
        )
    collate = run_data.objective.training_collate
    with (
        training_layers(adapted, trainer, run_data, accelerator=accelerator),
        interrupt_later() as interruption,
        metric_logging(
            run_dir,
            monitor,
            total_steps=total,
            resumed_step=start.step if checkpoint else None,
            judged=selection is not None and selection.metric == VALIDATION_LOSS,
        ) as watch,
        profiling(profiler) as profile_after,
    ):
        for record in train(
            model,
            optimizer,
            TrainingData(
                run_data.train,
                run_data.validation,
                profiler.collating(collate) if profiler is not None else collate,
                run_data.objective.loss,
            ),
            settings,
            start=start,
            accelerator=accelerator,
            interruption=interruption,
            should_stop=lambda: selection is not None and selection.exhausted,
        ):
            profile_after(record.step)
            watch(record)
            judged = selection.consider(adapted, record) if selection is not None else None
            if judged is not None:
                log.info(judged)
                say(monitor.console, judged)
        interruption.raise_if_interrupted()
    trained = unwrap_model(model, config, run_data, accelerator=accelerator)
    beginning.validate_moved(trained, dtype=config.adapter.get("dtype", "float32"))
    return trained


def save_adapter_folder(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the adapter and its tokenizer.

    Raises:
        RunFailure: They could not be written; says where they are kept instead.
    """

    def write(where: Path) -> None:
        save_adapter(model, where)
        tokenizer.save_pretrained(where)

    try:
        write(folder)
    except (OSError, RunFailure) as error:
        kept = rescue(write, "adapter")
        checkpoints = sorted((folder.parent / "checkpoints").glob("step-*"))
        last = f"; so has {checkpoints[-1]}" if checkpoints else ""
        raise RunFailure(
            f"the adapter could not be written to {folder} ({error}); {kept}{last}: make {folder} "
            "writable, then continue with resume=auto"
        ) from error


def write_everything(report: Report, config: RunConfig, run_data: RunData, run_dir: Path) -> None:
    """Model card, pages, and last ``report.json``, whose presence says that the run is finished."""
    document = report.to_dict()
    head = run_data.objective.head
    card = model_card(
        document,
        prompt=learned_prompt(
            report.protocol,
            run_data.tokenizer,
            chat=run_data.wording == "chat",
            template=report.data.prompt,
        )
        if head is None and run_data.wording != "text"
        else None,
        labels=head.labels if head is not None else (),
        facts=Facts.of(config),
    )
    try:
        write_text_atomically(run_dir / "adapter" / "README.md", card)
        write_pages(run_dir, document)
        write_report(run_dir / "report.json", report)
    except OSError as error:
        raise RunFailure(
            f"the report could not be written to {run_dir} ({error}); the adapter is saved in "
            f"{run_dir / 'adapter'}: make room there, then continue with resume=auto"
        ) from error
