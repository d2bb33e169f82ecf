"""The parent: writes the resolved config, starts the worker, forwards signals, reports the result.

A process per job isolates the jobs of a sweep, handles the terminal's Ctrl-C in one place, and can
still report when the job is killed. :mod:`toplora_train.launch.agent` starts and monitors several
workers. A job under torchrun, ``accelerate launch`` or SLURM (``WORLD_SIZE`` is set) already has
its processes and runs in place.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from toplora_train.config.aside import temporary_folder
from toplora_train.config.errors import UserError, disk_error
from toplora_train.config.processes import launched_processes, rank
from toplora_train.config.resolved import write_config
from toplora_train.config.schema import RunConfig
from toplora_train.launch import worker
from toplora_train.launch.extension import keeping_the_end
from toplora_train.launch.lock import locked
from toplora_train.launch.outcome import REPORT, killed_by, read_report, write_failure
from toplora_train.launch.output import show_error
from toplora_train.launch.rundir import (
    CONFIG,
    forget_failure,
    how_to_resume,
    is_already_done,
    make_run_dir,
)
from toplora_train.report.earlier import undo_unbegun

WORKER = "toplora_train.launch.worker"
AGENT = "toplora_train.launch.agent"
TAIL_LINES = 15
FORWARDED = {  # received -> sent on
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,  # the terminal was closed
    signal.SIGUSR1: signal.SIGUSR1,  # SLURM's warning before the time limit
}


@dataclass(frozen=True)
class JobResult:
    """A job's exit code (0, 1, 2, 130, 143), run directory, duration, and error if it failed.

    ``planned`` is the least training time that ``plan=true`` found, in seconds.
    """

    exit_code: int
    run_dir: Path
    seconds: float
    error: str | None = None
    planned: float | None = None


def run_job(config: RunConfig, *, module: str = WORKER, console: TextIO | None = None) -> JobResult:
    """Run one job to its end.

    Args:
        config: The resolved configuration.
        module: What the worker process runs, ``python -m MODULE RUN_DIR --with-parent``.
        console: Where the worker prints; None is this process's standard output and error.

    Raises:
        UserError: The run directory is in use, finished, or holds another run; or the run's own
            table makes no task.
    """
    from toplora_train.run.prepare.own_table import with_table  # --help does not need it

    started = time.monotonic()
    run_dir = Path(config.output_dir)
    config, found = with_table(config)
    if found is not None:
        print(found, file=console, flush=True)
    if not config.trains:
        with temporary_folder() as folder:
            code, error = _work(config, folder, module, console)
            planned = read_report(folder).get("planned_seconds")
        return JobResult(code, run_dir, time.monotonic() - started, error, planned)
    if launched_processes() is not None:
        code, error = _work_in_place(config, run_dir)
        return JobResult(code, run_dir, time.monotonic() - started, error)
    make_run_dir(run_dir)
    try:
        with locked(run_dir) as lock:
            undo_unbegun(run_dir)  # of a parent that was killed
            if is_already_done(config, run_dir):
                print(f"{run_dir} is already finished; nothing to do")
                return JobResult(worker.DONE, run_dir, time.monotonic() - started)
            forget_failure(run_dir)
            with keeping_the_end(run_dir):
                code, error = _work(config, run_dir, module, console, lock)
    except OSError as found:
        if (refused := disk_error(found, run_dir)) is None:
            raise
        code, error = worker.CRASHED, str(refused)
        show_error(error)
    return JobResult(code, run_dir, time.monotonic() - started, error)


def worker_command(
    module: str, run_dir: Path, *, processes: int | str = 1, device: str = "auto"
) -> list[str]:
    """The command of the worker, or of the agent that starts several workers."""
    if processes == 1:
        return [sys.executable, "-P", "-m", module, str(run_dir), "--with-parent"]
    options = ["--processes", str(processes), "--device", device]
    return [sys.executable, "-P", "-m", AGENT, module, str(run_dir), *options]


def worker_environment() -> dict[str, str]:
    """The parent's environment, with defaults for a training process."""
    environment = dict(os.environ)
    environment.setdefault(
        "TOKENIZERS_PARALLELISM", "false"
    )  # it forks: silences a deadlock warning
    environment.setdefault("PYTHONUNBUFFERED", "1")
    # -P for the processes that a worker starts too (compilers, data loaders): a random.py in the
    # current directory must not shadow the standard library's.
    environment["PYTHONSAFEPATH"] = "1"
    return environment


def _work(
    config: RunConfig, run_dir: Path, module: str, console: TextIO | None, lock: int | None = None
) -> tuple[int, str | None]:
    """Check the rows, start the worker, wait for it, and report how it ended."""
    from toplora_train.run.prepare.early import check_rows  # --help does not need it

    write_config(config, run_dir / CONFIG)
    try:
        check_rows(config)
    except UserError as refused:
        error = " ".join(str(refused).split())
        write_failure(run_dir, status="failed", error=error, error_type="UserError")
        show_error(error)
        return worker.USER_ERROR, error
    with _forwarding_signals() as (received, send_to):
        # In its own process group, so that the terminal's Ctrl-C only reaches the parent. The pipe
        # to its standard input closes when the parent dies for any reason; then the worker exits.
        process = subprocess.Popen(
            worker_command(
                module,
                run_dir,
                processes=config.launch.processes if config.trains else 1,
                device=config.launch.device,
            ),
            stdin=subprocess.PIPE,
            stdout=console,
            stderr=console,
            env=worker_environment(),
            process_group=0,
            pass_fds=() if lock is None else (lock,),
        )
        send_to(process)
        returned = process.wait()
        assert process.stdin is not None
        process.stdin.close()
    return _report(returned, received, config, run_dir)


def _work_in_place(config: RunConfig, run_dir: Path) -> tuple[int, str | None]:
    make_run_dir(run_dir)
    if rank() > 0:
        if is_already_done(config, run_dir):
            return worker.DONE, None
        code = worker.run(config, run_dir)
        return code, read_report(run_dir).get("error") if code else None
    with locked(run_dir):
        undo_unbegun(run_dir)
        if is_already_done(config, run_dir):
            return worker.DONE, None
        forget_failure(run_dir)
        with keeping_the_end(run_dir):
            write_config(config, run_dir / CONFIG)
            return _report(worker.run(config, run_dir), [], config, run_dir)


@contextmanager
def _forwarding_signals() -> Iterator[tuple[list[int], Callable[[subprocess.Popen[bytes]], None]]]:
    """Forward each signal to the worker exactly once; signals before its start are queued.

    A warning (SIGUSR1) after another signal is not a second one.
    """
    received: list[int] = []
    pending: list[int] = []
    target: list[subprocess.Popen[bytes]] = []

    def send() -> None:
        while pending and target:
            target[0].send_signal(pending.pop(0))

    def forward(signum: int, _frame: FrameType | None) -> None:
        if received and signum == signal.SIGUSR1:
            return
        received.append(FORWARDED[signal.Signals(signum)])
        pending.append(received[-1])
        send()

    def send_to(process: subprocess.Popen[bytes]) -> None:
        target.append(process)
        send()

    if threading.current_thread() is not threading.main_thread():  # Python's handlers live there
        yield received, send_to
        return
    before = {signum: signal.signal(signum, forward) for signum in FORWARDED}
    try:
        yield received, send_to
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _report(
    returned: int, received: list[int], config: RunConfig, run_dir: Path
) -> tuple[int, str | None]:
    """The exit code and the error line; for a crash, also show the end of its log."""
    if returned == worker.DONE:
        return returned, None
    if returned in (worker.USER_ERROR, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        error = read_report(run_dir).get("error")
        if error or returned == worker.USER_ERROR:
            return returned, error
    if returned == worker.UNRECORDED:
        return worker.CRASHED, f"failed, and {run_dir / REPORT} could not be written"
    remedy = how_to_resume(config, run_dir)
    if returned > 128 or (returned < 0 and -returned in received):
        signum = returned - 128 if returned > 128 else -returned
        error = "; ".join(filter(None, [f"interrupted by signal {signum}", remedy]))
        write_failure(run_dir, status="interrupted", error=error, error_type="Interrupted")
        print(error, file=sys.stderr)
        return 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM), error
    if returned < 0:
        error = "; ".join(filter(None, [killed_by(-returned), remedy]))
        write_failure(run_dir, status="failed", error=error, error_type="Killed")
        _show_crash(f"error: {error}", run_dir)
        return worker.CRASHED, error
    report = read_report(run_dir)
    error = report.get("error") or f"the worker failed with exit code {returned}"
    if report.get("error_type") == "Killed" and remedy:  # a worker; the agent has reported it
        print(remedy, file=sys.stderr, flush=True)
    if report.get("error_type") != "RunFailure":
        _show_crash("" if report.get("error") else f"error: {error}", run_dir)
    return worker.CRASHED, error


def _show_crash(line: str, run_dir: Path) -> None:
    path = run_dir / read_report(run_dir).get("log", worker.LOG)
    text = [line] if line else []
    if path.is_file():
        tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        text += [f"The last lines of {path}:", *(f"  {entry}" for entry in tail)]
    print("\n".join(text), file=sys.stderr, flush=True)
