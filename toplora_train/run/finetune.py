"""A fine-tuning run, top to bottom: rows, base model, adapter, training, scores, proof, report."""

from __future__ import annotations

import gc
import logging
from dataclasses import asdict
from pathlib import Path

from toplora_train.adapters.attach import attach_adapter, kernel_of, kernel_sentence
from toplora_train.adapters.describe import describe_adapter, trainable_parameters_by_module
from toplora_train.adapters.start_from import take_start
from toplora_train.config.schema import RunConfig
from toplora_train.evaluation.ranks import Ranks
from toplora_train.evaluation.run_evaluation import Score
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.liger import validate_liger, validate_liger_model
from toplora_train.models.sharded import to_device
from toplora_train.report.display import say
from toplora_train.report.earlier import earlier_ends
from toplora_train.report.trackers.base import NoTracker, TrackedRun, open_tracker
from toplora_train.run.assemble.general_text import read_general_text
from toplora_train.run.assemble.inspection import inspect_adapter, run_texts
from toplora_train.run.assemble.reload import probe_logits, prove_reload
from toplora_train.run.assemble.run_report import Outcome, build_report, conclusion, introduction
from toplora_train.run.assemble.scores import Scorer
from toplora_train.run.assemble.writing import save_adapter_folder, write_everything
from toplora_train.run.fit.best_checkpoint import fingerprint, select
from toplora_train.run.fit.fine_tune import fine_tune
from toplora_train.run.fit.metric_logging import Monitor
from toplora_train.run.fit.optimization import adjustments
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
from toplora_train.run.prepare.extension import find_extension
from toplora_train.run.prepare.invocation import with_invocation
from toplora_train.run.prepare.objective import base_weights, load_base
from toplora_train.run.prepare.resume_point import resume_point
from toplora_train.run.prepare.run_data import prepare, total_steps
from toplora_train.run.prepare.same_inputs import validate_same_inputs
from toplora_train.run.prepare.step_memory import compute_dtype
from toplora_train.run.prepare.validate_adapter import validate_adapter
from toplora_train.run.prepare.validate_settings import validate_settings
from toplora_train.train.signals import interrupt_at_once

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
    if config.trainer.liger:
        validate_liger(accelerator.device)
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
    if config.trainer.liger:
        validate_liger_model(model)
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
        )
        # An untrained head would guess: there is nothing to score.
        if config.evaluation.base and run_data.objective.head is None
        else {}
    )

    losses_before = general_text.losses(model)
    adapted = attach_adapter(model, config.adapter, seed=config.seed)
    with accelerator.autocast():
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
