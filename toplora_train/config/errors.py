"""The one exception that means "the user can fix this": one clear line, exit code 2, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input, described in one line that names the place and the remedy.

    Raised anywhere in the package; only the command line catches it. The message names the file,
    key or row at fault and says what to do, for example
    ``train.jsonl, line 7: not valid JSON (Expecting ',' delimiter); mend or remove the line``.
    """


class RunFailure(Exception):
    """A run that cannot go on through no mistake of its configuration (exit code 1, one line).

    Raised for a full disk while saving and for a loss that is not a number: nothing already
    written is lost, and the message says from where the run can be resumed.
    """
