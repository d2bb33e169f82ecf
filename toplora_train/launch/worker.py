"""The worker process: reads the resolved config, runs the job, turns its result into an exit code.

Started as ``python -m toplora_train.launch.worker RUN_DIR`` by :mod:`toplora_train.launch.parent`,
or several times by :mod:`toplora_train.launch.agent`, torchrun or ``accelerate launch``, which set
``RANK`` and ``WORLD_SIZE``. Each has its own log; if several fail, the first one's error counts.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from toplora_train.config.errors import Interrupted, RunFailure, UserError, disk_error
from toplora_train.config.garbage import without_collection
from toplora_train.config.plugins import load_plugins
from toplora_train.config.processes import launched_processes, rank
from toplora_train.config.resolved import read_config, write_config
from toplora_train.config.schema import RunConfig
from toplora_train.launch.outcome import REPORT, write_failure
from toplora_train.launch.output import survive_lost_output
from toplora_train.launch.rundir import CONFIG, how_to_resume

Job = Callable[[RunConfig, Path], None]

LOG = "train.log"
DONE, CRASHED, USER_ERROR = 0, 1, 2
UNRECORDED = 3  # failed, with a line on standard error, but report.json could not be written
UNDER_AGENT = "TOPLORA_AGENT"  # set in the environment of the agent's workers

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job of a run directory; returns the exit code."""
    survive_lost_output()
    parser = argparse.ArgumentParser(prog="python -m toplora_train.launch.worker")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument(
        "--with-parent", action="store_true", help="exit when standard input is closed"
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
    """Train, or download the inputs (``prefetch``) and show the plan (``plan``)."""
    # Imported here, so that a broken torch installation is reported in train.log.
    if config.prefetch:
        with without_collection():
            from toplora_train.run import prefetch

        prefetch.run(config, weights=not config.plan)
    if config.plan:
        with without_collection():
            from toplora_train.run import plan

        plan.run(config, run_dir)
    if config.trains:
        with without_collection():
            from toplora_train.run import finetune

        finetune.run(config, run_dir)


def run(config: RunConfig, run_dir: Path, *, job: Job = run_training) -> int:
    """Run the job in this process and turn its result into an exit code."""
    with _logging_to(run_dir / log_name()):
        try:
            load_plugins(config.plugins, config.config_dirs)
            with _noticing_deletion(config, run_dir):
                job(config, run_dir)
        except Interrupted as interruption:
            return _interrupted(config, run_dir, interruption)
        except KeyboardInterrupt:  # before the job installed its signal handlers
            return _interrupted(config, run_dir, Interrupted(signal.SIGINT))
        except UserError as error:
            return _failed(run_dir, USER_ERROR, error, str(error))
        except RunFailure as error:
            return _failed(run_dir, CRASHED, error, str(error))
        # Any error becomes a traceback in the log and one line; a module's sys.exit is no success.
        except (Exception, SystemExit) as error:
            if isinstance(found := disk_error(error, run_dir), UserError):
                return _failed(run_dir, USER_ERROR, found, str(found))
            log.exception("the run failed")
            if found is not None:
                line = "; ".join(filter(None, [str(found), how_to_resume(config, run_dir)]))
                return _failed(run_dir, CRASHED, found, line)
            known = _known_failure(error, config)
            if known is not None:
                return _failed(run_dir, CRASHED, known, str(known))
            return _failed(run_dir, CRASHED, error, f"{type(error).__name__}: {error}")
    return DONE


@contextmanager
def _noticing_deletion(config: RunConfig, run_dir: Path) -> Iterator[None]:
    """Fail if the run's folder was deleted meanwhile: what was saved since is not a whole run.

    Raises:
        RunFailure: It was deleted; or the job's own, which says where the adapter is.
    """
    there = (run_dir / CONFIG).exists()
    try:
        yield
    except Exception as error:
        lost = _restored(config, run_dir) if there else None
        if lost is None or isinstance(error, RunFailure):
            raise
        raise lost from error
    if there and (lost := _restored(config, run_dir)) is not None:
        raise lost


def _restored(config: RunConfig, run_dir: Path) -> RunFailure | None:
    """Make a deleted folder a run's folder again, from which the run can be resumed."""
    if (run_dir / CONFIG).exists():
        return None
    with suppress(OSError):
        write_config(config, run_dir / CONFIG)
        (run_dir / REPORT).unlink(missing_ok=True)
    remedy = how_to_resume(config, run_dir) or "nothing is saved; start it again"
    return RunFailure(f"{run_dir} was deleted during the run; {remedy}")


def log_name() -> str:
    """``train.log`` on rank 0, else ``train.rankN.log``."""
    return LOG if rank() == 0 else f"train.rank{rank()}.log"


def _record(run_dir: Path, error_type: str, *, status: str, error: str) -> bool:
    """Write the error to report.json and standard error, unless another process was first.

    Returns False if report.json cannot be written.

    An agent prints it itself: it may be the consequence of another worker's end.
    """
    several = (launched_processes() or 1) > 1
    first = write_failure(
        run_dir,
        status=status,
        error=error,
        error_type=error_type,
        log=log_name() if rank() else None,
        only_first=several,
    )
    printed_by_agent = first and status == "failed" and UNDER_AGENT in os.environ
    if first is not False and not printed_by_agent:
        line = f"error: {error}" if status == "failed" else error
        print(line, file=sys.stderr, flush=True)
    return first is not None


def end_with_parent() -> None:
    """Exit this process when its standard input, a pipe that the parent holds, is closed."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        log.error("the parent process is gone; stopping")
        os._exit(CRASHED)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _known_failure(error: BaseException, config: RunConfig) -> RunFailure | None:
    """A common failure, described so that it needs no traceback."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's; by name, to avoid the import
        return RunFailure(
            "out of device memory; lower trainer.micro_batch_size "
            f"(now {config.trainer.micro_batch_size}) or evaluation.batch_size "
            f"(now {config.evaluation.batch_size}), or set trainer.activation_checkpointing=true"
        )
    if type(error).__name__ == "DistNetworkError" and "EADDRINUSE" in str(error):  # torch's too
        return RunFailure(
            f"the rendezvous port {os.environ.get('MASTER_PORT', '?')} is in use; give the "
            "launcher another one (torchrun and accelerate launch: --master-port)"
        )
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if restarted and "connectFullMesh failed" in str(error):
        return RunFailure(
            "after torchrun's restart a process was called at its old address, which torchrun's "
            "store keeps; start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 and "
            "--standalone or --rdzv-backend=c10d"
        )
    return None


def _failed(run_dir: Path, code: int, error: BaseException, text: str) -> int:
    """Report an error in one line on standard error and in report.json; return the exit code."""
    line = " ".join(text.split())
    log.error("%s", line)
    if rank() and code == CRASHED:
        line = f"rank {rank()}: {line}"
    recorded = _record(run_dir, type(error).__name__, status="failed", error=line)
    return code if recorded or code == USER_ERROR else UNRECORDED


def _interrupted(config: RunConfig, run_dir: Path, interruption: Interrupted) -> int:
    line = "; ".join(filter(None, [str(interruption), how_to_resume(config, run_dir)]))
    log.warning("%s", line)
    _record(run_dir, "Interrupted", status="interrupted", error=line)
    return interruption.exit_code


class _LogFile(logging.FileHandler):
    """A log whose disk may be full: the run says so once, not at every line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Do nothing."""

    def close(self) -> None:
        """Close the file, whether or not what is buffered can be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Write all logging and warnings to the file, with timestamps."""
    handler: logging.Handler = logging.NullHandler()
    with suppress(OSError):  # the run itself says which of its files cannot be written
        handler = _LogFile(path, encoding="utf-8")
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
