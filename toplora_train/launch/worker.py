"""The worker process: reads the resolved config, runs the job, turns its end into an exit code.

Started as ``python -m toplora_train.launch.worker RUN_DIR`` by :mod:`toplora_train.launch.parent`,
or several times by :mod:`toplora_train.launch.agent`, torchrun or ``accelerate launch``, which set
``RANK`` and ``WORLD_SIZE``. Each has a log of its own; of several that fail the first tells why.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from toplora_train.config.errors import Interrupted, RunFailure, UserError
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import RunConfig
from toplora_train.launch.outcome import write_failure
from toplora_train.launch.rundir import CONFIG, how_to_resume

Job = Callable[[RunConfig, Path], None]

LOG = "train.log"
DONE, CRASHED, USER_ERROR = 0, 1, 2

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job of a run directory; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m toplora_train.launch.worker")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument(
        "--with-parent", action="store_true", help="end at once when standard input is closed"
    )
    arguments = parser.parse_args(argv)
    if arguments.with_parent:
        end_with_parent()
    try:
        config = read_config(arguments.run_dir / CONFIG)
    except UserError as error:
        return _failed(arguments.run_dir, USER_ERROR, error, str(error))
    return run(config, arguments.run_dir)


def run_training(config: RunConfig, run_dir: Path) -> None:
    """Train, or fetch what would be read (``prefetch``) and show what would be done (``plan``)."""
    # Imported here: all pull in torch, and a broken installation should end in train.log.
    if config.prefetch:
        from toplora_train.run import prefetch

        prefetch.run(config, weights=not config.plan)
    if config.plan:
        from toplora_train.run import plan

        plan.run(config)
    if config.trains:
        from toplora_train.run import finetune

        finetune.run(config, run_dir)


def run(config: RunConfig, run_dir: Path, *, job: Job = run_training) -> int:
    """Run the job in this process; every way in which it can end becomes an exit code."""
    with _logging_to(run_dir / log_name()):
        try:
            job(config, run_dir)
        except Interrupted as interruption:
            return _interrupted(config, run_dir, interruption)
        except KeyboardInterrupt:  # before anybody asked for signals to be handled otherwise
            return _interrupted(config, run_dir, Interrupted(signal.SIGINT))
        except UserError as error:
            return _failed(run_dir, USER_ERROR, error, str(error))
        except RunFailure as error:
            return _failed(run_dir, CRASHED, error, str(error))
        except Exception as error:  # of whatever kind: it ends in the log, a line and an exit code
            log.exception("the run failed")
            foreseen = _foreseen(error, config)
            if foreseen is not None:
                return _failed(run_dir, CRASHED, foreseen, str(foreseen))
            return _failed(run_dir, CRASHED, error, f"{type(error).__name__}: {error}")
    return DONE


def rank() -> int:
    """This process's number among those of the run."""
    return int(os.environ.get("RANK", "0"))


def log_name() -> str:
    """``train.log``, or ``train.rankN.log`` of the others."""
    return LOG if rank() == 0 else f"train.rank{rank()}.log"


def _note(run_dir: Path, error_type: str, *, status: str, error: str) -> None:
    """The line in report.json and on standard error, unless another process was first."""
    log_of_another = log_name() if rank() else None
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if write_failure(
        run_dir,
        status=status,
        error=error,
        error_type=error_type,
        log=log_of_another,
        only_first=several,
    ):
        line = f"error: {error}" if status == "failed" else error
        print(line, file=sys.stderr, flush=True)  # noqa: T201  (for the user)


def end_with_parent() -> None:
    """End this process at once when its standard input, a pipe that the parent holds, is closed."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        log.error("the process that started this run is gone; stopping")
        os._exit(CRASHED)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _foreseen(error: Exception, config: RunConfig) -> RunFailure | None:
    """A failure that everyone meets and that needs no traceback."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, whose import is not needed here
        return RunFailure(
            "out of device memory; lower trainer.micro_batch_size "
            f"(now {config.trainer.micro_batch_size}) or evaluation.batch_size "
            f"(now {config.evaluation.batch_size}), or set trainer.activation_checkpointing=true"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailure(f"the disk is full: {error.filename or 'a file'} could not be written")
    if type(error).__name__ == "DistNetworkError" and "EADDRINUSE" in str(error):  # torch's too
        return RunFailure(
            f"port {os.environ.get('MASTER_PORT', '?')}, through which the processes would find "
            "each other, is in use; give the launcher another one (torchrun and accelerate launch: "
            "--master-port)"
        )
    return None


def _failed(run_dir: Path, code: int, error: Exception, text: str) -> int:
    """One line on standard error, a note in report.json, and the exit code."""
    line = " ".join(text.split())
    log.error("%s", line)
    if rank() and code == CRASHED:
        line = f"rank {rank()}: {line}"
    _note(run_dir, type(error).__name__, status="failed", error=line)
    return code


def _interrupted(config: RunConfig, run_dir: Path, interruption: Interrupted) -> int:
    line = "; ".join(filter(None, [str(interruption), how_to_resume(config, run_dir)]))
    log.warning("%s", line)
    _note(run_dir, "Interrupted", status="interrupted", error=line)
    return interruption.exit_code


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Everything that is logged or warned goes to the file, plain and dated."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


if __name__ == "__main__":
    sys.exit(main())
