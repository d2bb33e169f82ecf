"""Where a job speaks to people."""

from __future__ import annotations

from rich.console import Console
from transformers.utils import logging


def open_console(*, quiet: bool = False) -> Console:
    """The terminal, or nothing if ``quiet``; transformers' own bars, which tear ours, are off.

    A download keeps its bar: that is the hub's, and it is the one that can take long.
    """
    logging.disable_progress_bar()
    return Console(quiet=quiet)
