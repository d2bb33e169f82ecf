"""``resume=extend``: check that a finished run can be extended, and keep its results meanwhile.

The last checkpoint has all the state of the next step, and the order of the rows depends on seed
and epoch only. So an extended run continues as if it had never ended, except for what depends on
its length: the learning rate schedule (see :mod:`toplora_train.run.prepare.extension`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.schema import LENGTH, RunConfig, TrainerSettings
from toplora_train.launch.outcome import is_completed
from toplora_train.report.earlier import keep_end, undo_unbegun
from toplora_train.report.record import read_report

ONLY_SHOWN = {
    f"trainer.{key}" for key in ("name", "log_every", "save_every", "save_minutes", "keep")
}


def validate_extension(
    config: RunConfig,
    run_dir: Path,
    changes: Mapping[str, tuple[Any, Any]],
    *,
    checkpoints: list[Path],
) -> None:
    """Check that a finished run can be extended exactly.

    Args:
        config: The extended run.
        run_dir: The finished run.
        changes: Dotted keys to their values then and now.
        checkpoints: The run's checkpoints.

    Raises:
        UserError: It cannot; says why.
    """
    others = [
        f"{key}={then}, now {now}"
        for key, (then, now) in changes.items()
        if key not in LENGTH | ONLY_SHOWN
    ]
    if others:
        raise UserError(
            f"resume=extend can only change the length of {run_dir} ({'; '.join(others)})"
        )
    report = read_report(run_dir / "report.json")
    selection = report["train"]["selection"] or {}
    if selection.get("stopped_early"):
        raise UserError(
            f"{run_dir} was stopped by trainer.patience after step {report['train']['steps']}, "
            "where a longer run would have stopped too; start a new run with more patience"
        )
    _validate_longer(config.trainer, run_dir, report)
    if not checkpoints:
        raise UserError(
            f"{run_dir} has no checkpoint to continue from; start a new run in another output_dir"
        )


def _validate_longer(trainer: TrainerSettings, run_dir: Path, report: Mapping[str, Any]) -> None:
    trained = report["train"]["steps"]
    if trainer.max_tokens is not None:
        if trainer.max_tokens > report["train"]["tokens"]:
            return
        trained, wanted = report["train"]["tokens"], trainer.max_tokens
        unit, key = "tokens", f"trainer.max_tokens={trainer.max_tokens}"
    else:
        per_epoch = math.ceil(report["data"]["rows"] / trainer.batch_size)
        wanted, unit = trainer.max_steps or trainer.epochs * per_epoch, "steps"
        key = (
            f"trainer.max_steps={trainer.max_steps}"
            if trainer.max_steps
            else f"trainer.epochs={trainer.epochs}"
        )
        if wanted > trained:
            return
    raise UserError(
        f"{run_dir} has already trained {trained:,} {unit}, but {key} means {wanted:,}; set more "
        "for resume=extend"
    )


@contextmanager
def keeping_the_end(run_dir: Path) -> Iterator[None]:
    """Keep a finished run's results in a separate folder while it is being extended.

    If the extension never starts, because the job refuses its input, everything is restored.

    Raises:
        RunFailure: The results could not be copied.
    """
    if not is_completed(run_dir):
        yield
        return
    try:
        keep_end(run_dir)
    except OSError as error:
        raise RunFailure(f"the finished run in {run_dir} could not be copied ({error})") from error
    try:
        yield
    finally:
        undo_unbegun(run_dir)
