"""What Hydra calls for each job, in whichever process its launcher runs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from toplora_train.config.compose import prepare_hydra, run_config
from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.launch.lock import holder
from toplora_train.launch.outcome import is_completed, read_report, write_failure
from toplora_train.launch.parent import JobResult, run_job
from toplora_train.launch.rundir import make_run_dir, new_run_dir
from toplora_train.launch.worker import USER_ERROR
from toplora_train.report.held_out import held_out
from toplora_train.report.jobs import Job
from toplora_train.run.prepare.own_table import with_table
from toplora_train.study.folder import Study, digest_of, is_done, now
from toplora_train.study.gpus import one_gpu
from toplora_train.study.pruning import curve_of, pruning
from toplora_train.study.search import searches

BASIC = "basic"  # the launcher that runs one job after another in this process
CONSOLE = "console.log"
INTERRUPTED = 128  # exit codes above are those of signals
PRUNED = INTERRUPTED + signal.SIGTERM


def job(composed: DictConfig) -> JobResult | float | None:
    """Run a job: a single one exits, one of a study is recorded in the study's folder.

    Returns:
        The result on the held-out rows; of a plan or a download, how it ended.
    """
    settings = cast(DictConfig, HydraConfig.get())  # annotated as HydraConf
    if settings.mode != RunMode.MULTIRUN:
        raise SystemExit(_single(composed, settings).exit_code)
    if composed.plan or composed.prefetch:
        result = _single(composed, settings)
        if result.exit_code > INTERRUPTED:
            raise SystemExit(result.exit_code)
        return result
    study = Study(Path(settings.sweep.dir))
    config = run_config(composed, settings, sys.argv[1:])
    found = study.find(digest_of(with_table(config)[0]))
    config = replace(config, output_dir=str(study.run_dir(found)), resume=config.resume or "auto")
    prunes = searches(settings.sweeper) and settings.callbacks.study.prune
    engine = str(settings.runtime.choices["hydra/launcher"])
    shared = int(settings.callbacks.study.jobs_per_gpu)
    return _run(study, found, config, engine=engine, prunes=prunes, jobs_per_gpu=shared)


def _single(composed: DictConfig, settings: DictConfig) -> JobResult:
    try:
        config = run_config(composed, settings, sys.argv[1:])
        if composed.output_dir is None and config.trains:
            config = replace(config, output_dir=str(new_run_dir(Path(config.output_dir))))
        return run_job(config)
    except UserError as error:
        return JobResult(user_error(str(error)), Path(), 0.0, str(error))


def _run(
    study: Study,
    found: Job,
    config: RunConfig,
    *,
    engine: str,
    prunes: bool = False,
    jobs_per_gpu: int = 1,
) -> float | None:
    """Run a job of a study, unless it is completed or the study stops."""
    if config.resume != "extend" and is_done(study, found):
        return found.value
    with one_gpu(study, config, engine, jobs_per_gpu=jobs_per_gpu):
        if study.stops():  # perhaps while it waited
            return None
        return _train(study, found, config, engine=engine, prunes=prunes)


def _train(
    study: Study, found: Job, config: RunConfig, *, engine: str, prunes: bool
) -> float | None:
    """Run a job and record how it ends; only an interruption ends the sweep."""
    run_dir = study.run_dir(found)
    make_run_dir(run_dir)
    started = now()
    study.record(found, "started")
    with _console(run_dir, engine) as console:
        if console is None:
            known = [job.digest for job in study.jobs()]
            number = f"{known.index(found.digest) + 1} of {len(known)}"
            print(f"\njob {number}: {found.title}\n  in {run_dir}", flush=True)  # noqa: T201
        pruned: list[str] = []
        try:
            with pruning(study, found, config) if prunes else nullcontext(pruned) as pruned:
                result = run_job(config, console=console)
        except UserError as error:
            result = JobResult(user_error(str(error)), run_dir, 0.0, str(error))
            if not is_completed(run_dir) and not read_report(run_dir):
                write_failure(run_dir, status="failed", error=str(error), error_type="UserError")
    on_held_out = held_out(study.report(found)) if result.exit_code == 0 else None
    value = None if on_held_out is None else on_held_out.value
    status: dict[str, Any] = {}
    if pruned and result.exit_code == PRUNED:
        value = list(curve_of(study, found, config).values())[-1]
        status = {"status": "pruned"}
        result = replace(result, exit_code=0, error=pruned[0])
    study.record(
        found,
        "ended",
        started=started,
        exit_code=result.exit_code,
        error=result.error,
        seconds=round(result.seconds, 3),
        value=value,
        **status,
    )
    if result.exit_code > INTERRUPTED and holder(study.path) == os.getpid():  # the sweep's process
        raise SystemExit(result.exit_code)
    return value


@contextmanager
def _console(run_dir: Path, engine: str) -> Iterator[TextIO | None]:
    """Where a job prints: its own file, unless jobs run one after another outside a terminal."""
    terminal = sys.__stdout__ is not None and sys.__stdout__.isatty()
    if engine == BASIC and not terminal:
        yield None
        return
    file = (run_dir / CONSOLE).open("a", encoding="utf-8")
    with file, redirect_stdout(file), redirect_stderr(file):
        yield file


def user_error(line: str) -> int:
    """Print an error on standard error; returns its exit code."""
    print(f"error: {line}", file=sys.stderr, flush=True)  # noqa: T201  (for the user)
    return USER_ERROR


try:
    # On import, because Hydra's launchers compose jobs in processes of their own.
    prepare_hydra()
except UserError as error:
    raise SystemExit(user_error(str(error))) from error
