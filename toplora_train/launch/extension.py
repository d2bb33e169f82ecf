"""``resume=extend``: may this finished run be trained for longer, and what is kept of it meanwhile.

The last checkpoint has all that the next step needs, and the order of the rows is a function of
seed and epoch. So a longer run goes on from it as if it had never ended, but for what depends on
the run's length: the learning rate's schedule (:mod:`toplora_train.run.prepare.extension` says so).
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

ONLY_SHOWN = {"trainer.name", "trainer.log_every", "trainer.save_every", "trainer.keep"}


def validate_extension(
    config: RunConfig,
    run_dir: Path,
    changes: Mapping[str, tuple[Any, Any]],
    *,
    checkpoints: list[Path],
) -> None:
    """Refuse to extend a finished run where that is no extension, or would not be exact.

    Args:
        config: What is wanted.
        run_dir: The finished run.
        changes: Dotted keys to their values then and now.
        checkpoints: The run's.

    Raises:
        UserError: Says why.
    """
    others = [
        f"{key}={then}, now {now}"
        for key, (then, now) in changes.items()
        if key not in LENGTH | ONLY_SHOWN
    ]
    if others:
        raise UserError(
            f"resume=extend changes the length of {run_dir} and nothing else ({'; '.join(others)})"
        )
    report = read_report(run_dir / "report.json")
    selection = report["train"]["selection"] or {}
    if selection.get("stopped_early"):
        raise UserError(
            f"{run_dir} ended by trainer.patience, after step {report['train']['steps']}, and a "
            "longer run would have ended there too; start a new run with more patience"
        )
    _validate_longer(config.trainer, run_dir, report)
    if not checkpoints:
        raise UserError(
            f"{run_dir} has no checkpoint left to go on from; train it anew in another output_dir"
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
        f"{run_dir} has trained {trained:,} {unit} already, and {key} makes {wanted:,}; give a "
        "greater one to resume=extend"
    )


@contextmanager
def keeping_the_end(run_dir: Path) -> Iterator[None]:
    """Inside, a finished run may be extended: its end is kept in a folder of its own.

    Where the extension then never begins, because the job refuses something, all is put back.

    Raises:
        RunFailure: The end could not be copied.
    """
    if not is_completed(run_dir):
        yield
        return
    try:
        keep_end(run_dir)
    except OSError as error:
        raise RunFailure(f"the finished run in {run_dir} could not be kept ({error})") from error
    try:
        yield
    finally:
        undo_unbegun(run_dir)
