"""How a run may end other than well: by the user's mistake, by failure, by interruption."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input, described in one line that names the place and the remedy.

    Raised anywhere in the package; only the command line catches it. The message names the file,
    key or row at fault and says what to do, for example
    ``train.jsonl, line 7: not valid JSON (Expecting ',' delimiter); mend or remove the line``.
    """


class RunFailure(Exception):  # noqa: N818  (the word of the exit codes' table)
    """A run that cannot go on through no mistake of its configuration (exit code 1, one line).

    Raised for a full disk while saving and for a loss that is not a number: nothing already
    written is lost, and the message says from where the run can be resumed.
    """


class Interrupted(Exception):  # noqa: N818  (it is no error: the run was asked to stop)
    """A run that was asked to stop by a signal and has left everything in order."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C (SIGINT), 143 after SIGTERM, as shells have it."""
        return 128 + self.signum
