"""The software and hardware of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "toplora-train",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "bitsandbytes",
    "numpy",
)


def environment(device: str | None = None) -> dict[str, Any]:
    """Return package versions, platform, CPU count and this package's git commit.

    Versions come from package metadata, so no heavy package is imported.

    Args:
        device: A description of the run's device, if known.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "device": device,
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def git_commit(checkout: Path) -> str | None:
    """Return the commit of ``checkout``, with ``+changes`` if there are uncommitted changes.

    None if it is not a git checkout or git is not installed.
    """
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if commit and changes else commit


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
