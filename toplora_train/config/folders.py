"""The cache folder for downloads and computed data."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$TOPLORA_CACHE``, or ``toplora-train`` in the user's cache folder."""
    if override := os.environ.get("TOPLORA_CACHE"):
        return Path(override).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toplora-train"
