"""How a run may fail: an error in the input, a failure at run time, an interruption."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from toplora_train.config.printable import printable

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

LONGEST = 1200
"""Characters of a message."""
_PHRASES = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid boolean": "true or false",
    "a valid integer": "an integer",
    "a valid dictionary": "a mapping",
    "a valid array": "a list",
    "a valid ": "a ",
}


class UserError(Exception):
    """An error in the input, described in one line.

    Raised anywhere in the package; only the command line catches it. The message names the file,
    key or row and says what to do, for example
    ``train.jsonl, line 7: not valid JSON (Expecting ',' delimiter); fix or remove the line``.
    It may quote a file, so control characters are escaped and the middle of a long message is
    left out here.
    """

    def __init__(self, message: str) -> None:
        text = printable(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - LONGEST // 4]} ... {text[-LONGEST // 4 :]}"
        super().__init__(text)


_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk has an error",
}


def disk_error(error: BaseException, folder: Path | None = None) -> UserError | RunFailure | None:
    """What to say if the file system refused to read or write, wherever that was first noticed.

    Args:
        error: Any exception.
        folder: What is written to, as the error may not say.
    """
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{error.filename}: {error.strerror}")
    if error.errno in _DISK:
        path = error.filename or folder or "a file"
        return RunFailure(f"{_DISK[error.errno]}: {path} could not be written")
    return None


class RunFailure(Exception):  # noqa: N818  (a failure, as in the table of exit codes)
    """A failure that the configuration did not cause (exit code 1, one line).

    Raised for a full disk while saving and for a NaN loss. Nothing already written is lost, and the
    message names the checkpoint to resume from.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Interrupted(BaseException):
    """A run that a signal stopped and that shut down cleanly.

    Like ``KeyboardInterrupt`` it is no ``Exception``: a signal may arrive inside any call, and code
    that reports or survives whatever the call raises must not take the signal for that.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C (SIGINT), 143 after SIGTERM, as in shells."""
        return 128 + self.signum


def requirement(problem: ErrorDetails) -> str:
    """What pydantic requires of a value, to be continued after "must be"."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"]).removeprefix("must be ")
    if kind == "too_long":
        return f"a list of at most {context['max_length']}"
    if kind == "literal_error":
        return f"one of {context['expected'].replace(' or ', ', ').replace(chr(39), '')}"
    if kind.startswith("dataclass"):
        return "a mapping"
    words = re.sub(r"^Input should be |, (unable|got) .*", "", problem["msg"])
    for verbose, plain in _PHRASES.items():
        words = words.replace(verbose, plain)
    return words


def one_line(error: object, longest: int = 300) -> str:
    """The message of another library's exception in one line of limited length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}..."
