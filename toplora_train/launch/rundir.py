"""May this run start in this directory? Asked and answered before anything is written there."""

from __future__ import annotations

from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.resolved import flat, read_config
from toplora_train.config.schema import RunConfig
from toplora_train.launch.outcome import REPORT, is_completed

CONFIG = "config.yaml"

# What may differ between a run and its continuation: where it lies and how it was called, what is
# done after training, what only shows or stores it, and the size of a forward pass, which changes
# the memory needed but not the step.
NOT_OF_THE_RUN = ("output_dir", "data_root", "resume", "plan", "command", "tracker", "launch")
NOT_OF_THE_TRAINING = (
    *NOT_OF_THE_RUN,
    "recipe",
    "task",
    "evaluation",
    "trainer.micro_batch_size",
    "trainer.log_every",
    "trainer.save_every",
    "trainer.eval_every",
    "trainer.keep",
)


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
        UserError: the directory holds a run that this one would overwrite or cannot go on with.
    """
    if is_completed(run_dir):
        if config.resume is None:
            raise UserError(f"{run_dir} holds a finished run; choose another output_dir")
        _refuse_other_settings(config, run_dir, NOT_OF_THE_RUN, "a finished run")
        return True
    checkpoints = _checkpoints(run_dir)
    if checkpoints and config.resume is None:
        raise UserError(
            f"{run_dir} holds an unfinished run (at {checkpoints[-1].name}); "
            "go on with resume=auto or choose another output_dir"
        )
    if checkpoints:
        _refuse_other_settings(config, run_dir, NOT_OF_THE_TRAINING, "a run")
    return False


def forget_failure(run_dir: Path) -> None:
    """Remove the note of an earlier attempt's failure."""
    (run_dir / REPORT).unlink(missing_ok=True)


def _checkpoints(run_dir: Path) -> list[Path]:
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if path.name.removeprefix("step-").isdigit())


def _refuse_other_settings(
    config: RunConfig, run_dir: Path, ignored: tuple[str, ...], what: str
) -> None:
    before, now = flat(read_config(run_dir / CONFIG)), flat(config)
    changes = [
        f"{key}={before.get(key)}, now {now.get(key)}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in ignored)
    ]
    if changes:
        raise UserError(
            f"{run_dir} holds {what} with other settings ({'; '.join(changes)}); "
            "set them as before or choose another output_dir"
        )
