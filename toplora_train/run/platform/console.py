"""The console that a job prints to."""

from __future__ import annotations

from rich.console import Console
from transformers.utils import logging

from toplora_train.report.display import plain_console


def open_console(*, quiet: bool = False) -> Console:
    """The terminal, or nothing if ``quiet``; disables transformers' bars, which garble ours.

    Downloads keep their bar: it is the hub's, and they can take long.
    """
    logging.disable_progress_bar()
    return plain_console(quiet=quiet)
