"""Check that a run may start in its directory, before anything is written there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.folders import checkpoint_folders
from toplora_train.config.resolved import flat, is_run_config, read_config
from toplora_train.config.schema import LENGTH, RunConfig
from toplora_train.launch.extension import validate_extension
from toplora_train.launch.outcome import REPORT, is_completed
from toplora_train.report.earlier import earlier_ends, finished_config
from toplora_train.report.jobs import STUDY

CONFIG = "config.yaml"
ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
WRITTEN = (  # by a run; its logs are only appended to
    CONFIG,
    REPORT,
    "report.md",
    "report.html",
    "metrics.jsonl",
    "metrics.csv",
    "inspection",
    "adapter",
    "checkpoints",
    "figures",
    "predictions",
)

# Settings that may differ for the same run: its location, its command and how it is displayed.
# (For an unfinished run the checkpoint decides.)
NOT_OF_THE_RUN = (
    "output_dir",
    "data_root",
    "resume",
    "plan",
    "command",
    "tracker",
    "launch",
    "config_dirs",
)


def make_run_dir(run_dir: Path) -> None:
    """Create the directory.

    Raises:
        UserError: It cannot be created, is the file system's root, or its path is not UTF-8.
    """
    if run_dir.resolve() in (Path("/"), Path("//")):  # POSIX keeps two slashes apart from one
        raise UserError(f"output_dir={run_dir} is the root of the file system; give a folder")
    try:
        str(run_dir).encode()
    except UnicodeEncodeError:  # libraries that save files would fail on it after training
        raise UserError(
            f"output_dir={str(run_dir)!a} is not UTF-8 under this locale; set LC_ALL=C.UTF-8, or "
            "choose another output_dir"
        ) from None
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={run_dir} cannot be created: {error.strerror}") from error


def new_run_dir(run_dir: Path) -> Path:
    """Create this folder or, if a command of the same second was first, ``-2`` and so on.

    Raises:
        UserError: See :func:`make_run_dir`.
    """
    make_run_dir(run_dir.parent)
    number, found = 1, run_dir
    while True:
        try:
            found.mkdir()
        except FileExistsError:
            number += 1
            found = run_dir.with_name(f"{run_dir.name}-{number}")
        except OSError:
            make_run_dir(found)  # which says why it cannot
        else:
            return found


def is_already_done(config: RunConfig, run_dir: Path) -> bool:
    """Whether the directory holds this run, finished, and ``resume`` is set.

    Raises:
        UserError: The directory holds files or a run that this one would overwrite, or a run that
            cannot be extended or has lost its adapter.
    """
    checkpoints = checkpoint_folders(run_dir / "checkpoints")
    if (run_dir / STUDY).is_file():
        raise UserError(
            f"{run_dir} holds a study; continue it with -m, or choose another output_dir"
        )
    if is_completed(run_dir):
        if config.resume is None:
            raise UserError(f"{run_dir} holds a finished run; choose another output_dir")
        changes = _changes(config, run_dir)
        if config.resume == "extend" and changes:
            validate_extension(config, run_dir, changes, checkpoints=checkpoints)
            return False
        _validate_same_settings(changes, run_dir)
        _validate_adapter_there(run_dir, checkpoints)
        return True
    _validate_own_files(run_dir)
    ends = earlier_ends(run_dir)
    if config.resume == "extend" and not ends:
        found = f"an unfinished run (at {checkpoints[-1].name})" if checkpoints else "no run"
        remedy = "finish it first with resume=auto" if checkpoints else "leave resume out"
        raise UserError(
            f"resume=extend is for a finished run, but {run_dir} holds {found}; {remedy}"
        )
    if ends and config.resume is not None:
        _validate_same_length(config, run_dir)
    if checkpoints and config.resume is None:
        raise UserError(
            f"{run_dir} holds an unfinished run (at {checkpoints[-1].name}); "
            "continue with resume=auto or choose another output_dir"
        )
    return False


def forget_failure(run_dir: Path) -> None:
    """Remove the record of an earlier attempt's failure."""
    if not is_completed(run_dir):  # a run to be extended keeps its report until training starts
        (run_dir / REPORT).unlink(missing_ok=True)


def how_to_resume(config: RunConfig, run_dir: Path) -> str:
    """How to resume after an interruption; "" if nothing was saved."""
    checkpoints = checkpoint_folders(run_dir / "checkpoints")
    if checkpoints:
        kept = f"{checkpoints[-1].name} is saved"
    elif any((run_dir / "predictions").glob("*.jsonl*")):
        kept = "no checkpoint is saved yet, but the base model's predictions are"
    else:
        return ""
    if (run_dir.parent / STUDY).is_file():
        return kept
    folder = "" if "output_dir=" in config.command else f", output_dir={run_dir}"
    resume = "" if config.resume is not None else " and resume=auto"
    return f"{kept}; continue with the same command{folder}{resume}"


def _validate_own_files(run_dir: Path) -> None:
    """Refuse to overwrite files that no run wrote: a run's folder has its ``config.yaml``."""
    there = sorted(name for name in WRITTEN if (run_dir / name).exists())
    if there and not is_run_config(run_dir / CONFIG):
        raise UserError(
            f"output_dir={run_dir} is not a run's folder, and its {there[0]} would be overwritten; "
            "choose another output_dir"
        )


def _validate_adapter_there(run_dir: Path, checkpoints: list[Path]) -> None:
    for name in ADAPTER:
        if not (run_dir / name).is_file():
            remedy = (
                f"delete its {REPORT} and repeat the command to restore it from "
                f"{checkpoints[-1].name}"
                if checkpoints
                else "it has no checkpoint to restore it from, so train it again in another "
                "output_dir"
            )
            raise UserError(f"{run_dir} holds a finished run without its {name}; {remedy}")


def _changes(config: RunConfig, run_dir: Path) -> dict[str, tuple[Any, Any]]:
    """The settings that differ from the run in the directory: their values then and now."""
    before, now = flat(read_config(finished_config(run_dir))), flat(config)
    return {
        key: (before.get(key), now.get(key))
        for key in {**before, **now}
        if before.get(key) != now.get(key) and key.partition(".")[0] not in NOT_OF_THE_RUN
    }


def _validate_same_settings(changes: Mapping[str, tuple[Any, Any]], run_dir: Path) -> None:
    if changes:
        words = "; ".join(f"{key}={then}, now {now}" for key, (then, now) in changes.items())
        longer = "extend it with resume=extend, or " if changes.keys() <= LENGTH else ""
        raise UserError(
            f"{run_dir} holds a finished run with other settings ({words}); "
            f"{longer}choose another output_dir"
        )


def _validate_same_length(config: RunConfig, run_dir: Path) -> None:
    """An interrupted extension must be finished at its length before it is extended again."""
    changes = {key: both for key, both in _changes(config, run_dir).items() if key in LENGTH}
    if changes:
        words = "; ".join(f"{key}={then}, now {now}" for key, (then, now) in changes.items())
        raise UserError(
            f"{run_dir} is being extended to another length ({words}); finish that extension "
            "first, then extend it again"
        )
