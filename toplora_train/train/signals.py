"""Signals that end a run: immediately outside training, after a checkpoint during it.

SIGINT, SIGTERM, and SIGUSR1, which SLURM sends before the time limit and which counts as SIGTERM.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from toplora_train.config.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interruption:
    """Records the first signal; a second one exits immediately.

    After a warning (SIGUSR1) the next one is still the first: it may come while the run saves.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._warned = False

    def receive(self, signum: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signum is None or self._warned:
            self.signum = _meant(signum)
            self._warned = signum == signal.SIGUSR1
        else:
            _again(signum, _frame)

    def raise_if_interrupted(self) -> None:
        """Raise :class:`Interrupted` if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)


def _meant(signum: int) -> int:
    return signal.SIGTERM if signum == signal.SIGUSR1 else signum


def _again(signum: int, _frame: FrameType | None) -> None:
    if signum != signal.SIGUSR1:  # SLURM may send its warning more than once
        os.write(2, b"a second signal: stopped at once\n")
        os._exit(128 + signum)


def _leave(signum: int, _frame: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, _again)
    raise Interrupted(_meant(signum))


def interrupt_at_once() -> None:
    """From now on, raise :class:`Interrupted` as soon as a signal arrives; a second one exits.

    Does nothing in another thread than the main one, where Python runs no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        signal.signal(number, _leave)


@contextmanager
def interrupt_later() -> Iterator[Interruption]:
    """Inside, the first signal is only recorded, so that the step can finish with a checkpoint."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.receive) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
