"""May this run start in this directory? Asked and answered before anything is written there."""

from __future__ import annotations

from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.resolved import flat, read_config
from toplora_train.config.schema import RunConfig
from toplora_train.launch.outcome import REPORT, is_completed

CONFIG = "config.yaml"

# Where a run lies, how it was called and what only shows it: two runs may differ in these and still
# be one. (What an unfinished run may differ in is for its checkpoint to say.)
NOT_OF_THE_RUN = ("output_dir", "data_root", "resume", "plan", "command", "tracker", "launch")


def make_run_dir(run_dir: Path) -> None:
    """Create the directory.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={run_dir} cannot be made: {error.strerror}") from error


def is_already_done(config: RunConfig, run_dir: Path) -> bool:
    """Whether ``resume=auto`` finds this very run finished.

    Raises:
        UserError: the directory holds a run that this one would overwrite.
    """
    if is_completed(run_dir):
        if config.resume is None:
            raise UserError(f"{run_dir} holds a finished run; choose another output_dir")
        _refuse_other_settings(config, run_dir)
        return True
    checkpoints = _checkpoints(run_dir)
    if checkpoints and config.resume is None:
        raise UserError(
            f"{run_dir} holds an unfinished run (at {checkpoints[-1].name}); "
            "go on with resume=auto or choose another output_dir"
        )
    return False


def forget_failure(run_dir: Path) -> None:
    """Remove the note of an earlier attempt's failure."""
    (run_dir / REPORT).unlink(missing_ok=True)


def how_to_go_on(config: RunConfig, run_dir: Path) -> str:
    """What a person types after a run was ended from outside; "" where there is nothing to keep."""
    checkpoints = _checkpoints(run_dir)
    if checkpoints:
        kept = f"{checkpoints[-1].name} is saved"
    elif any((run_dir / "predictions").glob("*.jsonl*")):
        kept = "no checkpoint is saved yet, but the base model's answers are kept"
    else:
        return ""
    folder = "" if "output_dir=" in config.command else f", output_dir={run_dir}"
    resume = "" if "resume=auto" in config.command else " and resume=auto"
    return f"{kept}; go on with the same command{folder}{resume}"


def _checkpoints(run_dir: Path) -> list[Path]:
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if path.name.removeprefix("step-").isdigit())


def _refuse_other_settings(config: RunConfig, run_dir: Path) -> None:
    before, now = flat(read_config(run_dir / CONFIG)), flat(config)
    changes = [
        f"{key}={before.get(key)}, now {now.get(key)}"
        for key in {**before, **now}
        if before.get(key) != now.get(key) and key.partition(".")[0] not in NOT_OF_THE_RUN
    ]
    if changes:
        raise UserError(
            f"{run_dir} holds a finished run with other settings ({'; '.join(changes)}); "
            "choose another output_dir"
        )
