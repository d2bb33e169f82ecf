"""One file over HTTP: whole and of the right content, or absent; fetched once for all processes.

``requests`` speaks HTTP; here is only when to try again, and what a file must be to be kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import requests
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from toplora_train.config.errors import UserError

logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "HF_HUB_DOWNLOAD_TIMEOUT"
WAITS = (1.0, 2.0, 4.0)
"""Seconds before the second try and the following ones; new data starts the count again."""
_CHUNK = 1 << 16
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may not get


def download(url: str, place: Path, *, blob: str, size: int | None, otherwise: str) -> None:
    """Fetch a file into ``place``, where nothing is seen of it before it is whole and checked.

    Of several processes one fetches and the others wait for it. A broken transfer is continued
    where it stopped if the server can, in a later run too. A server that sends nothing for
    ``HF_HUB_DOWNLOAD_TIMEOUT`` seconds (10 unless set) counts as broken.

    Args:
        url: Where the file is.
        place: Where it is to lie.
        blob: Its git blob id, see :func:`blob_id`.
        size: Its bytes, where known.
        otherwise: What a user can do instead, for the error messages.

    Raises:
        UserError: it cannot be fetched or written, or is another file than expected.
    """
    aside = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            if has_blob_id(place, blob):  # another process was here before
                return
            if place.exists():
                logger.warning("%s is damaged (its content is another); fetched again", place)
            logger.info("fetching %s into %s", url, place.parent)
            _fetch_whole(url, aside, blob=blob, size=size, otherwise=otherwise)
            aside.replace(place)
    except requests.RequestException as error:
        raise UserError(f"{url}: cannot be fetched ({_reason(error)}); {otherwise}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{place}: cannot be written ({reason}); free space or set TOPLORA_CACHE=FOLDER"
        ) from None


def blob_id(path: Path) -> str:
    """A file's git blob id: SHA-1 of ``blob SIZE``, a zero byte and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def has_blob_id(path: Path, blob: str) -> bool:
    """Whether there is a file of that content."""
    return path.is_file() and blob_id(path) == blob


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is fetching %s; waiting for it", place)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_whole(url: str, aside: Path, *, blob: str, size: int | None, otherwise: str) -> None:
    """Fetch into ``aside`` until its content is the one wanted."""
    begun = aside.exists()
    while not has_blob_id(aside, blob):
        with aside.open("ab") as file, _progress(aside, size) as progress:
            _receive(url, file, size, progress)
        found, received = blob_id(aside), aside.stat().st_size
        if found == blob:
            return
        aside.unlink()
        if not begun:
            raise UserError(
                f"{url}: sent another file than expected ({received:,} bytes with the git blob id "
                f"{found}, not {blob}), so it was not kept; {otherwise}"
            )
        begun = False  # what an earlier run left may have been of another file


def _receive(url: str, file: BinaryIO, size: int | None, progress: _Bar) -> None:
    """Append a file's bytes to what is there of it; try again while that may help."""
    failures = 0
    while True:
        before = file.tell()
        try:
            _receive_once(url, file, progress)
            if size is not None and file.tell() < size:
                raise requests.ConnectionError("the transfer ended early")
            return
        except requests.RequestException as error:
            if file.tell() > before:
                failures = 0
            if failures == len(WAITS) or not _may_pass(error):
                raise
            wait = WAITS[failures]
            failures += 1
            logger.warning(
                "%s: %s at %s bytes; trying again in %g s",
                url,
                _reason(error),
                f"{file.tell():,}",
                wait,
            )
            time.sleep(wait)


def _receive_once(url: str, file: BinaryIO, progress: _Bar) -> None:
    have = file.tell()
    headers = {"Accept-Encoding": "identity"}  # a range of a compressed stream is none of the file
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = float(os.environ.get(TIMEOUT_VARIABLE) or 10)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            file.seek(0)
            file.truncate()  # what is there is longer than the server's file, so it is of another
            raise requests.ConnectionError("what an earlier run left cannot be continued")
        response.raise_for_status()
        if have and response.status_code != requests.codes.partial_content:
            have = 0
            file.seek(0)
            file.truncate()
        length = response.headers.get("Content-Length", "")
        progress.start_at(have, have + int(length) if length.isdecimal() else None)
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            progress.advance(len(chunk))


class _Bar:
    """Bytes, rate and time left of one file; shown on a terminal only."""

    def __init__(self, name: str, size: int | None) -> None:
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(name, total=size)

    def start_at(self, done: int, total: int | None) -> None:
        self.progress.update(self.task, completed=done, total=total)

    def advance(self, count: int) -> None:
        self.progress.advance(self.task, count)


@contextmanager
def _progress(aside: Path, size: int | None) -> Iterator[_Bar]:
    bar = _Bar(f"fetching {aside.name.removeprefix('.').removesuffix('.part')}", size)
    with bar.progress:
        yield bar


def _may_pass(error: requests.RequestException) -> bool:
    """Whether another try could do better."""
    if error.response is not None:
        return error.response.status_code in _PASSING
    return isinstance(error, _BROKEN)


def _reason(error: requests.RequestException) -> str:
    """What went wrong, on one line, without the nested names of the libraries below."""
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the transfer ended early"
    cause: BaseException = error
    while nested := cause.__cause__ or cause.__context__:
        cause = nested
    if isinstance(error, requests.Timeout) or isinstance(cause, TimeoutError):
        return "the server did not answer in time"
    text = str(getattr(cause, "strerror", None) or cause)
    return " ".join(text.split()) or type(cause).__name__
