"""Ends a sweep whose jobs run in other processes: running jobs save, no further one starts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from toplora_train.launch.lock import holder
from toplora_train.study.folder import Study

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def stopping(study: Study) -> Iterator[None]:
    """On a signal, let the running jobs write their checkpoints, then exit; on a second, exit now.

    The study stops until the next sweep: a job may wait for its turn for longer than this process.
    The jobs get SIGUSR1, which a job that the terminal or `kill -- -GROUP` has reached already does
    not take for a second signal.

    Raises:
        SystemExit: A signal arrived; the code is 130 or 143.
    """
    received: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        if received and signum == signal.SIGUSR1:
            return  # SLURM may send its warning more than once
        received.append(signum)
        if len(received) > 1:
            raise KeyboardInterrupt
        study.stop()
        _pass_on(study)
        print("stopping: the running jobs save first", file=sys.stderr)  # noqa: T201  (for the user)

    before = {signum: signal.signal(signum, stop) for signum in SIGNALS}
    try:
        yield
    except Exception:
        if not received:  # else an engine's complaint that its processes have ended
            raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if received:
        code = signal.SIGINT if received[0] == signal.SIGINT else signal.SIGTERM
        raise SystemExit(128 + code)


def _pass_on(study: Study) -> None:
    """Send SIGUSR1 to the processes on this machine that hold the jobs' locks."""
    for job in study.jobs():
        pid = holder(study.run_dir(job))
        if pid is not None:
            with suppress(OSError):  # ended just now
                os.kill(pid, signal.SIGUSR1)


def leave_signals_to_jobs() -> None:
    """In a process of joblib: ignore signals but while a job runs, which handles them itself.

    A terminal's Ctrl-C reaches idle processes too, and joblib kills the others when one ends.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
