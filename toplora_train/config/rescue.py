"""Keep what is in memory when the run's folder cannot be written: full, read-only or deleted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path


def rescue(write: Callable[[Path], object], name: str) -> str:
    """Write to a new folder in the temporary folder instead; the sentence for the user.

    Args:
        write: Fills the folder that it is given; may raise any exception.
        name: The folder's name.

    Returns:
        Where it is now, or that it could not be written there either.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="toplora-rescued-")) / name
        write(folder)
    except Exception as error:  # libraries raise their own; the first failure is what counts
        return f"it could not be kept in {tempfile.gettempdir()} either ({error})"
    return f"it is kept in {folder}"
