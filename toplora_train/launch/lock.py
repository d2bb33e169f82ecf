"""One run at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from toplora_train.config.errors import UserError

LOCK = ".lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[int]:
    """Hold the run directory's lock; yields the file descriptor that holds it.

    A process that inherits the descriptor holds the lock too, so it lasts as long as either.

    Raises:
        UserError: Another process holds it, or it is not a file of one's own, such as a symlink.
    """
    path = run_dir / LOCK
    descriptor = _take(path, run_dir)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # left on a disk that has turned read-only, it locks nothing
            path.unlink()  # while held: see _take
        os.close(descriptor)


def holder(run_dir: Path) -> int | None:
    """The process of this machine that holds the run directory's lock, if one does.

    A file that nobody locks is of a killed process, whose number may be that of another by now.
    """
    with suppress(OSError, ValueError), (run_dir / LOCK).open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            _, pid, _, host = file.read().split()
            return int(pid) if host == socket.gethostname() else None
    return None


def _take(path: Path, run_dir: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise UserError(f"{path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode() or "another process"
            os.close(descriptor)
            raise UserError(
                f"{run_dir} is in use by {holder}; wait for it or choose another output_dir"
            ) from None
        if _is_still_there(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)  # its holder removed it between our open and our lock


def _is_still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
