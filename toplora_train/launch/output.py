"""A closed or full standard output never stops a run: what it could not show is in the log."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO, cast

log = logging.getLogger(__name__)


class _Lossy:
    """A stream whose writes never fail: after the first failure it writes to ``/dev/null``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)
        self._stream.flush()  # what is buffered would fail again when the process exits
        log.info("%s cannot be written (%s)", self._stream.name, error.strerror)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def survive_lost_output() -> None:
    """From now on, ignore that standard output or standard error is closed, full or hung up.

    A closed descriptor is opened to ``/dev/null`` first, so that no file of the run gets its number
    and with it what a library prints.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (stays open)
        if not isinstance(stream, _Lossy):
            setattr(sys, name, cast(TextIO, _Lossy(stream)))


def show_error(line: str) -> None:
    """Print the one line of an error on standard error."""
    print(f"error: {line}", file=sys.stderr, flush=True)
