"""What is written aside and renamed when it is whole, and what killed processes left of that.

An entry that is being written is locked by its process, and the kernel takes the lock away however
the process ends. A hidden entry without a lock is therefore a leftover; it is removed by the next
process that writes in the same folder.
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
UNLOCKABLE_FOR = 24 * 3600  # seconds after which a file system without locks is not waited for


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``, to be filled and renamed to it; else it is removed.

    What killed processes left of the same target is removed first.

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, f"{PREFIX}{target.name}-*")
    aside, lock = _made(lambda: _new_folder(target))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def write_aside(target: Path, content: bytes) -> None:
    """Write a file whole or not at all; of two processes that do, the last one stays.

    Raises:
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, lock = _made(lambda: _new_file(target))
    try:
        aside.write_bytes(content)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder below the system's temporary one; those of killed processes are removed."""
    parent, prefix = Path(tempfile.gettempdir()), f"toplora-{os.getuid()}-"
    remove_leftovers(parent, f"{prefix}*")
    folder, lock = _made(lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def leftovers(folder: Path, pattern: str = f"{PREFIX}*") -> list[Path]:
    """Return the entries of this user's killed processes."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with _abandoned(path) as it_is:
            found += [path] if it_is else []
    return found


def remove_leftovers(folder: Path, pattern: str = f"{PREFIX}*") -> None:
    """Remove what killed processes left in a folder; what cannot be removed stays."""
    for path in sorted(folder.glob(pattern)):
        with _abandoned(path) as it_is:
            if it_is:
                logger.info("removing %s, which a killed process left behind", path)
                remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is allowed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether no live process writes the entry; nobody begins to inside."""
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


def _made(make: Callable[[], Path]) -> tuple[Path, int]:
    """A new entry and the descriptor that locks it; made again if it was taken for a leftover."""
    while True:
        path = make()
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # without locks its age has to do
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)
