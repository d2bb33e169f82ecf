"""Ends the hopeless jobs of a search early, by Optuna's median rule on held-out rows.

A job is pruned if, at a validation, its best result so far is worse than the median of the
completed jobs' results at that epoch. The first five jobs of a search are never pruned. Test rows
play no part.

Source: D. Golovin et al., Google Vizier: a service for black-box optimization (2017), "median
stopping rule"; the rule is Optuna's ``MedianPruner`` with its defaults.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from toplora_train.config.reading import json_lines
from toplora_train.config.schema import RunConfig
from toplora_train.report.jobs import Job
from toplora_train.study.folder import Study
from toplora_train.study.objective import cost, minimizes_loss

SECONDS = 1.0  # between two looks at the files
JUDGED = "checkpoints/selected/judged.json"

EPOCH = 1_000_000

Curve = dict[int, float]
"""A job's results on the held-out rows, by millionths of an epoch: Optuna counts in integers, and
a step is not as long in a job with another batch size."""


@contextmanager
def pruning(study: Study, job: Job, config: RunConfig) -> Iterator[list[str]]:
    """Interrupt the job of this process if it turns out to be hopeless.

    Yields:
        A list that then holds the reason.
    """
    reasons: list[str] = []
    over = threading.Event()

    def ignore(signum: int, _frame: FrameType | None) -> None:
        if not reasons:  # it is not ours, which arrived as the job ended
            signal.signal(signum, before)
            os.kill(os.getpid(), signum)

    def watch() -> None:
        seen = 0
        while not over.wait(SECONDS):
            curve = curve_of(study, job, config)
            if len(curve) > seen:
                seen = len(curve)
                reason = why_hopeless(_costs(config, curve), _completed(study, job, config))
                if reason and not over.is_set():
                    reasons.append(reason)
                    os.kill(os.getpid(), signal.SIGTERM)  # forwarded to the worker, which saves
                    return

    before = signal.signal(signal.SIGTERM, ignore)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield reasons
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)


def why_hopeless(curve: Curve, completed: Sequence[tuple[float, Curve]]) -> str | None:
    """Why a job should be ended; None if it should not.

    Args:
        curve: What the job is to minimize, so far.
        completed: The same of each completed job, its result and its curve.
    """
    import optuna  # an extra, which a search needs

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    states = optuna.trial.TrialState
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    for result, values in completed:
        study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE, value=result, intermediate_values=values
            )
        )
    trial = optuna.trial.create_trial(state=states.RUNNING, intermediate_values=curve)
    if not study.pruner.prune(study, trial):
        return None
    epoch = max(curve) / EPOCH
    return f"worse than the median of {len(completed)} completed jobs at epoch {epoch:.4g}"


def curve_of(study: Study, job: Job, config: RunConfig) -> Curve:
    """The results of a job's validations so far: those that select its checkpoint, if any do."""
    run_dir = study.run_dir(job)
    found: list[dict[str, Any]] = []
    try:
        if selection := study.report(job).get("train", {}).get("selection"):
            found = selection["epochs"]
        elif (run_dir / JUDGED).is_file():
            found = json.loads((run_dir / JUDGED).read_text("utf-8"))
        elif minimizes_loss(config):  # where a metric selects, a loss logged before it is not it
            rows = [row for _, row in json_lines(run_dir / "metrics.jsonl")]
            found = [row | {"value": row.get("validation_loss")} for row in rows]
    except (OSError, ValueError):  # not written yet
        return {}
    return {round(EPOCH * one["epoch"]): one["value"] for one in found if one["value"] is not None}


def _costs(config: RunConfig, curve: Curve) -> Curve:
    return {step: cost(config, value) for step, value in curve.items()}


def _completed(study: Study, job: Job, config: RunConfig) -> list[tuple[float, Curve]]:
    """Those of the same command: a folder may hold the searches of several adapters."""
    return [
        (cost(config, one.value), _costs(config, curve_of(study, one, config)))
        for one in study.jobs()
        if one.status == "completed" and one.planned == job.planned and one.value is not None
    ]
