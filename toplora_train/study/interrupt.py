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

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping(study: Study) -> Iterator[None]:
    """On a signal, let the running jobs write their checkpoints, then exit; on a second, exit now.

    The terminal sends Ctrl-C to the jobs of this process group; other signals, and other jobs, get
    it from here.

    Raises:
        SystemExit: A signal arrived; the code is 130 or 143.
    """
    received: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)
        if len(received) > 1:
            raise KeyboardInterrupt
        study.stop()
        _pass_on(study, from_terminal=signum == signal.SIGINT)
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


def _pass_on(study: Study, *, from_terminal: bool) -> None:
    """Send SIGTERM to the processes on this machine that hold the jobs' locks.

    Args:
        study: Whose jobs they are.
        from_terminal: Those of this process's group have it already; Ray's workers do not.
    """
    for job in study.jobs():
        path = study.run_dir(job) / ".lock"
        try:
            _, pid, _, host = path.read_text(encoding="utf-8").split()
            has_it = from_terminal and os.getpgid(int(pid)) == os.getpgrp()
            if host == socket.gethostname() and not has_it:
                os.kill(int(pid), signal.SIGTERM)
        except (OSError, ValueError):  # not running, or ended just now
            continue
