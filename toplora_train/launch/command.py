"""How a small command ends: its exit code, and one line where it went wrong."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.launch.worker import CRASHED, DONE, USER_ERROR, rank


def run_command(command: Callable[[], None]) -> int:
    """Run it; what it raises becomes an exit code, an unforeseen error keeps its traceback.

    A ``KeyboardInterrupt`` may say how to go on.
    """
    # That a faster kernel is not installed is told whenever bitsandbytes is, wanted or not.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        with _warnings_as_lines():
            command()
    except UserError as error:
        return _fail(str(error), USER_ERROR)
    except RunFailure as error:
        return _fail(str(error), CRASHED)
    except KeyboardInterrupt as interruption:
        return _fail(str(interruption) or "interrupted", 128 + signal.SIGINT)
    return DONE


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Libraries' warnings as a line each, without their own place in the source.

    What is meant for those who program with a library (deprecations) is left out.
    """
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)  # noqa: T201  (for the user)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _fail(text: str, code: int) -> int:
    if rank() and code != CRASHED:  # of several processes the first says the same
        return code
    line = " ".join(text.split())
    line = line if code > 128 else f"error: {line}"
    print(line, file=sys.stderr, flush=True)  # noqa: T201  (for the user)
    return code
