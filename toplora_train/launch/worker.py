"""The worker process: reads the resolved config, runs the job, turns its end into an exit code.

Started as ``python -m toplora_train.launch.worker RUN_DIR`` by :mod:`toplora_train.launch.parent`.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from toplora_train.config.errors import Interrupted, RunFailure, UserError
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import RunConfig
from toplora_train.launch.outcome import write_failure
from toplora_train.launch.rundir import CONFIG

LOG = "train.log"
DONE, CRASHED, USER_ERROR, CTRL_C = 0, 1, 2, 130

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
        return _fail(arguments.run_dir, USER_ERROR, error)
    return run(config, arguments.run_dir)


def run(config: RunConfig, run_dir: Path) -> int:
    """Run the job in this process; every way in which it can end becomes an exit code."""
    with _logging_to(run_dir / LOG):
        try:
            _job(config, run_dir)
        except Interrupted as interruption:
            return _fail(run_dir, interruption.exit_code, interruption)
        except KeyboardInterrupt:
            return _fail(run_dir, CTRL_C, Exception("interrupted before training began"))
        except UserError as error:
            return _fail(run_dir, USER_ERROR, error)
        except RunFailure as error:
            return _fail(run_dir, CRASHED, error)
        except Exception as error:
            failure = _foreseen(error, config)
            if failure is not None:
                log.debug("%s", failure, exc_info=error)
                return _fail(run_dir, CRASHED, failure)
            log.exception("the run crashed")
            return _fail(run_dir, CRASHED, error)
    return DONE


def end_with_parent() -> None:
    """End this process at once when its standard input, a pipe that the parent holds, is closed."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        log.error("the process that started this run is gone; stopping")
        os._exit(CRASHED)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _job(config: RunConfig, run_dir: Path) -> None:
    # Imported here: both pull in torch, and a broken installation should end in train.log.
    if config.plan:
        from toplora_train.jobs import plan

        plan.run(config)
    else:
        from toplora_train.jobs import finetune

        finetune.run(config, run_dir)


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
    return None


def _fail(run_dir: Path, code: int, error: BaseException) -> int:
    """One line on standard error, a note in report.json, and the exit code."""
    text = str(error) if isinstance(error, UserError | RunFailure | Interrupted) else ""
    text = text or (str(error) if code >= CTRL_C else f"{type(error).__name__}: {error}")
    line = " ".join(text.split())
    log.error("%s", line)
    status = "interrupted" if code >= CTRL_C else "failed"
    write_failure(run_dir, status=status, error=line, error_type=type(error).__name__)
    print(f"{'' if code >= CTRL_C else 'error: '}{line}", file=sys.stderr, flush=True)  # noqa: T201  (the worker's one line)
    return code


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
