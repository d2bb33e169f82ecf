"""Signals that end a run: at once where nothing can be lost, after a checkpoint while training.

Ctrl-C, SIGTERM, and SIGUSR1, which SLURM sends before the time is over and which counts as SIGTERM.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from toplora_train.config.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interruption:
    """Remembers the first signal; a second one leaves at once."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def receive(self, signum: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signum is None:
            self.signum = _meant(signum)
        elif signum != signal.SIGUSR1:  # a warning may come by more than one way
            os._exit(128 + signum)

    def raise_if_asked(self) -> None:
        """Raise :class:`Interrupted` if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)


def _meant(signum: int) -> int:
    return signal.SIGTERM if signum == signal.SIGUSR1 else signum


def _leave(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(_meant(signum))


def interrupt_at_once() -> None:
    """From here on a signal raises :class:`Interrupted` wherever the program is."""
    for number in SIGNALS:
        signal.signal(number, _leave)


@contextmanager
def interrupt_later() -> Iterator[Interruption]:
    """Inside, the first signal is only remembered: the current step can end in a checkpoint."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.receive) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
