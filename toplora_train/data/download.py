"""Download a file over HTTP: verified, atomic, and once for all processes.

``requests`` handles HTTP; this module adds retries, resuming and verification.
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
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from toplora_train.config.errors import UserError

logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "HF_HUB_DOWNLOAD_TIMEOUT"
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each retry; received data resets the count."""
_CHUNK = 1 << 16
_BAR = TaskID(0)  # the only one of a display
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # status codes worth a retry


def download(url: str, place: Path, *, blob: str, size: int | None, otherwise: str) -> None:
    """Download a file to ``place``, where it appears only when complete and verified.

    One of several processes downloads; the others wait. An interrupted transfer is resumed if the
    server supports it, also by a later run. A server that sends nothing for
    ``HF_HUB_DOWNLOAD_TIMEOUT`` seconds (default 10) counts as a failure.

    Args:
        url: The address of the file.
        place: The destination.
        blob: Its git blob id, see :func:`blob_id`.
        size: Its size in bytes, if known.
        otherwise: What the user can do instead, for error messages.

    Raises:
        UserError: It cannot be downloaded or written, or its content is not the expected one.
    """
    partial = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            if has_blob_id(place, blob):  # downloaded by another process
                return
            if place.exists():
                logger.warning("%s is damaged (hash mismatch); downloading it again", place)
            logger.info("downloading %s to %s", url, place.parent)
            _fetch_whole(url, partial, blob=blob, size=size, otherwise=otherwise)
            partial.replace(place)
    except requests.RequestException as error:
        raise UserError(f"{url}: download failed ({_reason(error)}); {otherwise}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{place}: cannot be written ({reason}); free space or set TOPLORA_CACHE=FOLDER"
        ) from None


def blob_id(path: Path) -> str:
    """A file's git blob id: SHA-1 of ``blob SIZE``, a NUL byte and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def has_blob_id(path: Path, blob: str) -> bool:
    """Whether the file exists with this content."""
    return path.is_file() and blob_id(path) == blob


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is downloading %s; waiting for it", place)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_whole(url: str, partial: Path, *, blob: str, size: int | None, otherwise: str) -> None:
    """Download into ``partial`` until its content is the expected one."""
    resumed = partial.exists()
    while not has_blob_id(partial, blob):
        with partial.open("ab") as file, _progress(url, size) as progress:
            _receive(url, file, size, progress)
        found, received = blob_id(partial), partial.stat().st_size
        if found == blob:
            return
        partial.unlink()
        if not resumed:
            raise UserError(
                f"{url}: unexpected content ({received:,} bytes with git blob id {found}, not "
                f"{blob}), so it was not kept; {otherwise}"
            )
        resumed = False  # the partial file of an earlier run may have been of another file


def _receive(url: str, file: BinaryIO, size: int | None, progress: Progress) -> None:
    """Append the missing bytes of a file; retry transient failures."""
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
            if failures == len(WAITS) or not _is_transient(error):
                raise
            wait = WAITS[failures]
            failures += 1
            logger.warning(
                "%s: %s at %s bytes; retrying in %g s",
                url,
                _reason(error),
                f"{file.tell():,}",
                wait,
            )
            time.sleep(wait)


def _receive_once(url: str, file: BinaryIO, progress: Progress) -> None:
    have = file.tell()
    headers = {"Accept-Encoding": "identity"}  # byte ranges are of the uncompressed file
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = float(os.environ.get(TIMEOUT_VARIABLE) or 10)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            file.seek(0)
            file.truncate()  # longer than the server's file, so it is of another file
            raise requests.ConnectionError("the partial file cannot be resumed")
        response.raise_for_status()
        if have and response.status_code != requests.codes.partial_content:
            have = 0
            file.seek(0)
            file.truncate()
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        progress.update(_BAR, completed=have, total=total)
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            progress.advance(_BAR, len(chunk))


@contextmanager
def _progress(url: str, size: int | None) -> Iterator[Progress]:
    """The progress bar of a download; shown only on a terminal."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        progress.add_task("downloading " + "/".join(url.split("/")[-2:]), total=size)
        yield progress


def _is_transient(error: requests.RequestException) -> bool:
    """Whether a retry may succeed."""
    if error.response is not None:
        return error.response.status_code in _TRANSIENT
    return isinstance(error, _BROKEN)


def _reason(error: requests.RequestException) -> str:
    """The cause on one line, without the nested exceptions of libraries."""
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
