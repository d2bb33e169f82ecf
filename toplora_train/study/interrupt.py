"""Ends a sweep whose jobs run in other processes: running jobs save, no further one starts."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from toplora_train.study.folder import Study

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def stopping(study: Study) -> Iterator[None]:
    """On a signal, let the running jobs write their checkpoints, then exit; on a second, exit now.

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

    study.go_on()
    before = {signum: signal.signal(signum, stop) for signum in SIGNALS}
    try:
        yield
    except Exception:
        if not received:  # else an engine's complaint that its processes have ended
            raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        study.go_on()
    if received:
        code = signal.SIGINT if received[0] == signal.SIGINT else signal.SIGTERM
        raise SystemExit(128 + code)


def _pass_on(study: Study) -> None:
    """Send SIGUSR1 to the processes on this machine that hold the jobs' locks."""
    for job in study.jobs():
        path = study.run_dir(job) / ".lock"
        try:
            _, pid, _, host = path.read_text(encoding="utf-8").split()
            if host == socket.gethostname():
                os.kill(int(pid), signal.SIGUSR1)
        except (OSError, ValueError):  # not running, or ended just now
            continue
