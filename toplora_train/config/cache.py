"""The entries of the cache folder, the limit on cached tokens, and clearing.

There are three kinds: converted model weights, tokenized rows and downloaded data. An entry's age
is the time since its last use: code that reads it from the cache calls :func:`mark_used`.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toplora_train.config.aside import leftovers, remove, remove_leftovers
from toplora_train.config.errors import UserError
from toplora_train.config.folders import cache_folder

KINDS = {"models": ("models",), "tokens": ("tokens",), "data": ("data", "llm-adapters")}
"""The folders of each kind."""
LIMIT_VARIABLE, DEFAULT_LIMIT = "TOPLORA_CACHE_LIMIT", "10 GiB"

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DAY = 24 * 3600
_TIMES = {"m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}


@dataclass(frozen=True)
class Entry:
    """An entry of the cache.

    Attributes:
        kind: A key of ``KINDS``.
        path: The file or folder.
        size: Its size in bytes.
        used: Time of its last use, in seconds since the epoch.
        left: Whether a killed process left it incomplete.
    """

    kind: str
    path: Path
    size: int
    used: float
    left: bool = False


def find_entries() -> list[Entry]:
    """Return all entries by kind, the most recently used first, leftovers last.

    Entries that a live process is writing are not included.
    """
    found: list[Entry] = []
    for kind, names in KINDS.items():
        of_kind = [entry for name in names for entry in _entries(kind, cache_folder() / name)]
        found += sorted(of_kind, key=lambda entry: (entry.left, -entry.used))
    return found


def clear(kinds: Iterable[str], *, older_than: float = 0.0) -> list[Entry]:
    """Remove the entries of these kinds that were not used for ``older_than`` seconds.

    Leftovers of killed processes are removed whatever their age.

    Returns:
        The removed entries, without those that could not be removed.
    """
    wanted, now = set(kinds), time.time()
    chosen = [
        entry
        for entry in find_entries()
        if entry.kind in wanted and (entry.left or now - entry.used >= older_than)
    ]
    for entry in chosen:
        if entry.left:
            remove_leftovers(entry.path.parent, glob.escape(entry.path.name))
        else:
            remove(entry.path)
    return [entry for entry in chosen if not entry.path.exists()]


def mark_used(path: Path) -> None:
    """Record that an entry is used now; does nothing if the cache is read-only."""
    with contextlib.suppress(OSError):
        os.utime(path)


def keep_within_limit(newest: Path, limit: int) -> list[Path]:
    """Remove the least recently used files beside ``newest`` until ``limit`` (bytes) is met.

    ``newest`` is kept whatever its size, because this run needs it.

    Returns:
        The removed files.
    """
    files = []
    for path in newest.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            if path.is_file() and not path.name.startswith("."):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
    total, removed = sum(size for _, size, _ in files), []
    for _, size, path in sorted(files):
        if total <= limit:
            break
        if path != newest:
            remove(path)
            removed.append(path)
            total -= size
    return removed


def tokens_limit() -> int:
    """Return the limit on cached tokens in bytes: ``$TOPLORA_CACHE_LIMIT``, or 10 GiB.

    Raises:
        UserError: the variable is not a size.
    """
    text = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UserError(f"{LIMIT_VARIABLE}={text} is not a size; write it like 500MB or 10GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def parse_age(text: str) -> float:
    """Parse an age such as ``30d``, ``12h``, ``2w`` or ``90m`` into seconds.

    Raises:
        UserError: it is not an age.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if found is None:
        raise UserError(
            f"'{text}' is not an age; write minutes, hours, days or weeks like 30d or 12h"
        )
    return float(found[1]) * _TIMES[found[2]]


def _entries(kind: str, folder: Path) -> Iterator[Entry]:
    """Whole folders for models, single files for everything else."""
    if not folder.is_dir():
        return
    whole = [
        path
        for path in (folder.glob("*") if kind == "models" else folder.rglob("*"))
        if (kind == "models" or path.is_file())
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    for path, left in [*((path, True) for path in leftovers(folder)), *((p, False) for p in whole)]:
        with contextlib.suppress(FileNotFoundError):
            yield Entry(kind, path, _size(path), path.stat().st_mtime, left)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
