"""Atomic writes to a temporary entry that is then renamed, and cleanup after killed processes.

A process locks the entry that it writes, and the kernel releases the lock however the process ends.
A temporary entry without a lock is therefore a leftover; the next process that writes in the same
folder removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = ".writing-"
UNLOCKABLE_FOR = 24 * 3600  # seconds until an entry counts as left over where locks are unsupported


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` to fill and rename to it; otherwise it is removed.

    Leftovers of the same target are removed first.

    Raises:
        OSError: the folder cannot be created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, f"{PREFIX}{target.name}-*")
    aside, lock = _locked(lambda: _new_folder(target))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def write_aside(target: Path, content: bytes) -> None:
    """Write a file atomically; of two processes, the last one wins.

    Raises:
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, lock = _locked(lambda: _new_file(target))
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a temporary folder, after removing those of killed processes."""
    parent, prefix = Path(tempfile.gettempdir()), f"toplora-{os.getuid()}-"
    remove_leftovers(parent, f"{prefix}*")
    folder, lock = _locked(lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def leftovers(folder: Path, pattern: str = f"{PREFIX}*") -> list[Path]:
    """Return the entries that this user's killed processes left."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with _abandoned(path) as abandoned:
            found += [path] if abandoned else []
    return found


def remove_leftovers(folder: Path, pattern: str = f"{PREFIX}*") -> None:
    """Remove leftovers in a folder, as far as permissions allow."""
    for path in sorted(folder.glob(pattern)):
        with _abandoned(path) as abandoned:
            if abandoned:
                logger.info("removing %s, left by a killed process", path)
                remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as permissions allow."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether no live process writes the entry; it stays locked inside the context."""
    try:
        found = path.lstat()
        lock = -1
        if found.st_uid == os.getuid() and not path.is_symlink():
            lock = os.open(path, os.O_RDONLY)
    except OSError:  # it is gone
        lock = -1
    if lock < 0:
        yield False
        return
    try:
        yield _lock_is_free(lock, found.st_mtime)
    finally:
        os.close(lock)


def _lock_is_free(lock: int, modified: float) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - modified > UNLOCKABLE_FOR
    return True


def _new_folder(target: Path) -> Path:
    path = _new_name(target)
    path.mkdir()
    return path


def _new_file(target: Path) -> Path:
    path = _new_name(target)
    path.touch(exist_ok=False)
    return path


def _new_name(target: Path) -> Path:
    return target.with_name(f"{PREFIX}{target.name}-{secrets.token_hex(4)}")


def _locked(make: Callable[[], Path]) -> tuple[Path, int]:
    """A new entry and the descriptor that locks it; retried if another process removed it."""
    while True:
        path = make()
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # unsupported: its age decides
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)


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
