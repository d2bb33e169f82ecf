"""A run's training: from the adapted model at a checkpoint to the trained one."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel

from toplora_train.config.schema import RunConfig
from toplora_train.report.display import say
from toplora_train.report.held_out import VALIDATION_LOSS
from toplora_train.run.fit.best_checkpoint import BestCheckpoint
from toplora_train.run.fit.distribute import prepare_model, unwrap_model
from toplora_train.run.fit.metric_logging import Monitor, metric_logging
from toplora_train.run.fit.optimization import (
    learning_rate,
    make_optimizer,
    micro_batch_size_of,
    prove_batches,
    training_layers,
)
from toplora_train.run.fit.profile import FOLDER, StepProfiler, profiling
from toplora_train.run.prepare.run_data import RunData, total_steps
from toplora_train.train.checkpoint import TrainState, load_checkpoint
from toplora_train.train.loop import train
from toplora_train.train.sanity_checks import Beginning
from toplora_train.train.settings import LoopSettings, TrainingData
from toplora_train.train.signals import interrupt_later

log = logging.getLogger(__name__)


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
