"""Run a small command: its exit code, and one line on an error."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from toplora_train.config.errors import Interrupted, RunFailure, UserError, disk_error
from toplora_train.config.processes import rank
from toplora_train.launch.output import survive_lost_output
from toplora_train.launch.worker import CRASHED, DONE, USER_ERROR
from toplora_train.train.signals import SIGNALS, interrupt_at_once


def run_words(command: Callable[[list[str]], None], usage: str) -> int:
    """Run a small command on the words of its command line, or print its usage for ``--help``."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(usage)
        return DONE
    return run_command(lambda: command(words))


def run_command(command: Callable[[], None]) -> int:
    """Run it and turn its errors into exit codes; an unexpected error keeps its traceback.

    A ``KeyboardInterrupt`` may say how to resume.
    """
    survive_lost_output()
    # Importing bitsandbytes always warns that a faster kernel is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        with signals_restored(), _warnings_as_lines():
            interrupt_at_once()
            command()
    except UserError as error:
        return _fail(str(error), USER_ERROR)
    except RunFailure as error:
        return _fail(str(error), CRASHED)
    except OSError as error:
        if (found := disk_error(error)) is None:
            raise
        return _fail(str(found), USER_ERROR if isinstance(found, UserError) else CRASHED)
    except KeyboardInterrupt as interruption:
        return _fail(str(interruption) or "interrupted", 128 + signal.SIGINT)
    except Interrupted as interruption:
        return _fail(str(interruption), interruption.exit_code)
    return DONE


@contextmanager
def signals_restored() -> Iterator[None]:
    """Restore the signal handlers at the end; only the main thread may change them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show libraries' warnings as a line each, without their source location.

    Warnings for developers (deprecations) are hidden.
    """
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _fail(text: str, code: int) -> int:
    if rank() and code != CRASHED:  # rank 0 prints the same
        return code
    line = " ".join(text.split())
    line = line if code > 128 else f"error: {line}"
    print(line, file=sys.stderr, flush=True)
    return code
