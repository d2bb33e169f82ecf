"""The cache folder for downloads and computed data, and the checkpoints of a run."""

from __future__ import annotations

import os
import re
from pathlib import Path

CHECKPOINT = re.compile(r"step-[0-9]{8,}")


def cache_folder() -> Path:
    """``$TOPLORA_CACHE``, or ``toplora-train`` in the user's cache folder."""
    if override := os.environ.get("TOPLORA_CACHE"):
        return Path(override).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toplora-train"


def checkpoint_name(step: int) -> str:
    """The name of the checkpoint of this step."""
    return f"step-{step:08d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder ``checkpoints``, oldest first.

    Not a user's copies beside them, such as ``step-00000200.bak`` or an archive.
    """
    found = [path for path in folder.glob("step-*") if CHECKPOINT.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))
