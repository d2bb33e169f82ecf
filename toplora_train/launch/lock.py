"""One run at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from toplora_train.config.errors import UserError


@contextmanager
def locked(run_dir: Path) -> Iterator[int]:
    """Hold the run directory's lock; yields the file descriptor that holds it.

    A process that inherits the descriptor holds the lock too, so it lasts as long as either.

    Raises:
        UserError: Another process holds it, or it is not a file of one's own, such as a symlink.
    """
    path = run_dir / ".lock"
    descriptor = _take(path, run_dir)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # left on a disk that has turned read-only, it locks nothing
            path.unlink()  # while held: see _take
        os.close(descriptor)


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
