"""Where a job speaks to people."""

from __future__ import annotations

from rich.console import Console
from transformers.utils import logging


def open_console() -> Console:
    """The terminal, with transformers' own bars off: they would tear the display's.

    A download keeps its bar: that is the hub's, and it is the one that can take long.
    """
    logging.disable_progress_bar()
    return Console()
