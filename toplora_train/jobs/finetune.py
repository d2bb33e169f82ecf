"""A fine-tuning run, top to bottom: rows, base model, adapter, training, scores, proof, report."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.describe import describe_adapter
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.errors import RunFailure
from toplora_train.config.schema import RunConfig
from toplora_train.evaluation.predictions import read_predictions
from toplora_train.evaluation.ranks import Ranks
from toplora_train.evaluation.tally import Score
from toplora_train.jobs.budget import within_budget
from toplora_train.jobs.console import open_console
from toplora_train.jobs.device import AUTOCAST, leave_the_others, open_accelerator
from toplora_train.jobs.encoding import learned_prompt
from toplora_train.jobs.fitting import refuse_unfit_rows
from toplora_train.jobs.joining import join_processes, part_processes
from toplora_train.jobs.learning import (
    adjustments,
    fitting_micro_batch,
    learning_rate,
    make_optimizer,
    prove_batches,
    training_layers,
)
from toplora_train.jobs.material import Material, prepare, total_steps
from toplora_train.jobs.objective import base_weights, load_base
from toplora_train.jobs.refusals import refuse_unfit_settings
from toplora_train.jobs.reload import probe_logits, prove_reload
from toplora_train.jobs.reporting import build_report, conclusion, introduction
from toplora_train.jobs.scoring import score_test_sets
from toplora_train.jobs.selection import Selection, fingerprint, select
from toplora_train.jobs.settings import deciding_settings
from toplora_train.jobs.starting import show_rows
from toplora_train.jobs.watching import watching
from toplora_train.models.activation import checkpoint_activations
from toplora_train.report.card import model_card
from toplora_train.report.json_file import write_text_atomically
from toplora_train.report.metrics_file import read_metrics
from toplora_train.report.pages import write_pages
from toplora_train.report.record import Report, write_report
from toplora_train.report.tracker import Tracker, open_tracker
from toplora_train.train.checkpoint import (
    TrainState,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    refuse_other_settings,
)
from toplora_train.train.health import Beginning
from toplora_train.train.loop import train
from toplora_train.train.signals import interrupt_at_once, interrupt_later

PROBE_ROWS = 4


def run(config: RunConfig, run_dir: Path) -> None:
    """Fine-tune as ``config`` says and leave adapter, predictions and report in ``run_dir``.

    Raises:
        UserError: something in the input is wrong; nothing was trained yet, or a resumed run's
            settings differ.
        RunFailure: the run cannot go on; what was saved is whole.
        Interrupted: a signal came.
    """
    interrupt_at_once()
    accelerator = open_accelerator(
        device=config.launch.device,
        mixed_precision=config.trainer.mixed_precision,
        deterministic=config.trainer.deterministic,
    )
    refuse_unfit_settings(config, processes=accelerator.num_processes)
    first = accelerator.is_main_process  # of several processes, it alone writes and shows
    console = open_console(quiet=not first)
    autocast = AUTOCAST[config.trainer.mixed_precision]

    material = prepare(config, console=console, in_turn=accelerator.local_main_process_first)
    config, fitted = within_budget(config, material)
    refuse_unusable_adapter(config, material)
    checkpoint, start = starting_point(config, run_dir / "checkpoints", material.rows.sha256)
    console.print(introduction(config, material, start), highlight=False, soft_wrap=True)
    adjusted = adjustments(config, total_steps=total_steps(config, material.lengths))
    for line in [*([fitted] if fitted is not None else []), *adjusted]:
        console.print(line, highlight=False, soft_wrap=True)

    model = load_base(config, material.location, material.objective.head)
    base_parameters = model.num_parameters()
    model.to(accelerator.device)
    score = partial(
        score_test_sets,
        tokenizer=material.tokenizer,
        test_sets=material.test_sets,
        folder=run_dir / "predictions",
        batch_size=config.evaluation.batch_size,
        autocast_dtype=autocast,
        console=console,
        ranks=Ranks(accelerator.process_index, accelerator.num_processes),
    )
    base_scores = (
        score(
            model,
            who="base",
            weights=base_weights(config, material.location),
            suffix=".base",
            reuse=checkpoint is not None,
        )
        # A head that nobody trained would guess: there is nothing to score.
        if config.evaluation.base and material.objective.head is None
        else {}
    )

    adapted = attach_adapter(model, config.adapter, seed=config.seed)
    if checkpoint is None:
        show_rows(adapted, config, material)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)
    tracker = open_tracker(
        config.tracker.name if first else "none",
        project=config.tracker.project,
        entity=config.tracker.entity,
        group=config.tracker.group,
        run_dir=run_dir,
        config=asdict(config),
    )
    selection = select(
        config,
        material,
        run_dir / "checkpoints" / "selected",
        resumed_step=start.step,
        autocast_dtype=autocast,
        silent=not first,
    )
    adapted = fine_tune(
        adapted,
        config,
        material,
        run_dir,
        accelerator=accelerator,
        checkpoint=checkpoint,
        start=start,
        selection=selection,
        tracker=tracker,
        console=console,
    )

    last_scores: dict[str, Score] = {}
    if selection is not None and not selection.best_is_last:
        last_scores = score(
            adapted,
            who="last step",
            weights=fingerprint(adapted),
            suffix=".last",
            reuse=False,
        )
        selection.restore(adapted)
    adapter_dir = run_dir / "adapter"
    if first:
        save_whole(adapted, material.tokenizer, adapter_dir)
    scores = score(adapted, who="tuned", weights=fingerprint(adapted), suffix="", reuse=False)
    leave_the_others(accelerator)
    if not first:
        return

    described = describe_adapter(adapted)
    probe = material.objective.collate(material.train[:PROBE_ROWS])
    trained_logits = probe_logits(adapted, probe, autocast)
    del model, adapted  # two copies of a large base would not fit
    fresh = load_base(config, material.location, material.objective.head, head_seed=config.seed + 1)
    proof = prove_reload(
        fresh.to(accelerator.device),
        adapter_dir,
        expected=trained_logits,
        batch=probe,
        dtype=autocast,
    )

    report = build_report(
        config,
        material,
        run_dir,
        accelerator=accelerator,
        fitted=fitted,
        base_parameters=base_parameters,
        shape=fresh.config,
        described=described,
        base_scores=base_scores,
        last_scores=last_scores,
        scores=scores,
        selection=selection,
        proof=proof,
    )
    write_everything(report, material, run_dir)
    tracker.finish({f"{name}/{s.metric}": s.value for name, s in scores.items()})
    console.print(conclusion(report.to_dict(), run_dir), highlight=False, soft_wrap=True)


def refuse_unusable_adapter(config: RunConfig, material: Material) -> None:
    """Attach the adapter to a model without weights: mistakes show before anything is slow."""
    without_weights = load_base(config, material.location, material.objective.head, meta=True)
    refuse_unfit_rows(without_weights, material)
    adapted = attach_adapter(without_weights, config.adapter, seed=config.seed)
    make_optimizer(adapted, config.optimizer, device_type="cpu")


def starting_point(
    config: RunConfig, checkpoints: Path, rows_sha256: str
) -> tuple[Path | None, TrainState]:
    """The checkpoint to go on from, if there is one, and the state to start in."""
    settings = deciding_settings(config, rows_sha256=rows_sha256)
    checkpoint = newest_checkpoint(checkpoints) if config.resume == "auto" else None
    if checkpoint is None:
        return None, TrainState(settings=settings)
    start = read_state(checkpoint)
    refuse_other_settings(checkpoint, start.settings, settings)
    return checkpoint, start


def fine_tune(
    adapted: PeftModel,
    config: RunConfig,
    material: Material,
    run_dir: Path,
    *,
    accelerator: Accelerator,
    checkpoint: Path | None,
    start: TrainState,
    selection: Selection | None,
    tracker: Tracker,
    console: Console,
) -> PeftModel:
    """Train the adapter, writing a line of metrics per logged step."""
    trainer = config.trainer
    total = total_steps(config, material.lengths)
    beginning = Beginning(adapted)
    prove_batches(adapted, trainer, material, accelerator=accelerator)
    micro_batch_size = fitting_micro_batch(adapted, trainer, material, accelerator=accelerator)
    model, optimizer = join_processes(
        adapted,
        partial(make_optimizer, settings=config.optimizer, device_type=accelerator.device.type),
        engine=config.launch.engine,
        accelerator=accelerator,
    )
    # For dropout, in each process another; whatever happened before does not reach it.
    torch.manual_seed(config.seed * accelerator.num_processes + accelerator.process_index)
    if checkpoint is not None:
        load_checkpoint(checkpoint, model=adapted, optimizer=optimizer, accelerator=accelerator)
    with (
        training_layers(adapted, trainer, material, accelerator=accelerator),
        interrupt_later() as interruption,
        watching(
            run_dir,
            total_steps=total,
            resumed_step=start.step if checkpoint else None,
            tracker=tracker,
            console=console,
            silent=not accelerator.is_main_process,
        ) as watch,
    ):
        for record in train(
            model,
            optimizer,
            material.train,
            material.validation,
            accelerator=accelerator,
            learning_rate=learning_rate(
                config.optimizer, total_steps=total, protocol=config.evaluation.protocol
            ),
            start=start,
            total_steps=total,
            batch_size=trainer.batch_size,
            micro_batch_size=micro_batch_size,
            group_by_length=trainer.group_by_length,
            max_grad_norm=trainer.max_grad_norm,
            collate=material.objective.training_collate,
            loss=material.objective.loss,
            seed=config.seed,
            log_every=trainer.log_every,
            eval_every=trainer.eval_every,
            save_every=trainer.save_every,
            keep=trainer.keep,
            checkpoints=run_dir / "checkpoints",
            interruption=interruption,
            enough=lambda: selection is not None and selection.exhausted,
        ):
            watch(record)
            judged = selection.consider(adapted, record) if selection is not None else None
            if judged is not None:
                console.print(judged, highlight=False, soft_wrap=True)
        interruption.raise_if_asked()
    trained = part_processes(model, config, material, accelerator=accelerator)
    beginning.refuse_unmoved(trained, dtype=config.adapter["dtype"])
    return trained


def save_whole(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the adapter and its tokenizer."""
    try:
        save_adapter(model, folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise RunFailure(
            f"the adapter could not be written to {folder} ({error}); the last checkpoint has it: "
            "make room, then go on with resume=auto"
        ) from error


def write_everything(report: Report, material: Material, run_dir: Path) -> None:
    """Model card, pages, and last ``report.json``, whose presence says that the run is finished."""
    document = report.to_dict()
    head = material.objective.head
    card = model_card(
        document,
        prompt=learned_prompt(report.protocol, material.tokenizer, chat=material.wording == "chat")
        if head is None
        else None,
        labels=head.labels if head is not None else (),
    )
    write_text_atomically(run_dir / "adapter" / "README.md", card)
    write_pages(
        run_dir,
        document,
        read_metrics(run_dir / "metrics.jsonl"),
        {
            test_set.name: read_predictions(run_dir / "predictions" / f"{test_set.name}.jsonl")
            for test_set in material.test_sets
        },
    )
    write_report(run_dir / "report.json", report)


def sha256_of(path: Path) -> str:
    """The digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
