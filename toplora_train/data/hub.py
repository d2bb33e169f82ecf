"""Data sets in the Hugging Face hub's layout: from a local mirror, the hub's cache or the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.data.files import Record

logger = logging.getLogger(__name__)


def read_mirror(
    folder: Path, *, subset: str | None, split: str, revision: str | None
) -> list[Record]:
    """Read one split of a local folder that is laid out as a hub data set.

    A mirror holds one revision and does not say which; asking for a certain one is logged.

    Raises:
        UserError: No such subset or split, or files that cannot be read.
    """
    if revision is not None:
        logger.warning("%s: a local copy; whether it is revision %s is not known", folder, revision)
    try:
        return _load(str(folder), subset=subset, split=split, revision=None)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a data set ({_line(error)})") from None


def read_hub(
    name: str, *, subset: str | None, split: str, revision: str | None, tried: Path | None
) -> list[Record]:
    """Read one split of the hub data set ``owner/name``; offline, of its copy in the hub's cache.

    Args:
        name: The hub id.
        subset: The hub's configuration name.
        split: The split, slices such as ``train[:100]`` included.
        revision: Branch, tag or commit.
        tried: The mirror folder that was looked for before, for the error message.

    Raises:
        UserError: The data set cannot be reached, or has no such subset or split.
    """
    try:
        return _load(name, subset=subset, split=split, revision=revision)
    except OSError as error:
        mirror = f"no mirror at {tried}" if tried else "no data_root was given"
        raise UserError(
            f"{name}: no such local path, {mirror}, and the hub data set cannot be had "
            f"({_line(error)}); name a local file, or put a copy under DATA_ROOT/hub/{name} and "
            "set data_root=DATA_ROOT"
        ) from None


def _load(path: str, *, subset: str | None, split: str, revision: str | None) -> list[Record]:
    import datasets  # slow to import, and most runs read plain files
    from datasets.exceptions import DatasetGenerationError

    with _no_progress_bars():
        try:
            table = datasets.load_dataset(path, name=subset, split=split, revision=revision)
        except DatasetGenerationError as error:
            raise UserError(
                f"{path}: a file cannot be read ({_line(error.__cause__ or error)})"
            ) from None
        except ValueError as error:
            message = _line(error)
            raise UserError(f"{path}: {message}; set subset and split to what it has") from None
    place = f"{path} ({f'{subset}, ' if subset else ''}{split})"
    return [
        Record(f"{place}, row {number}", f"{split}-{number}", fields)
        for number, fields in enumerate(table, start=1)
    ]


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    if datasets.utils.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _line(error: BaseException) -> str:
    """An exception's text on one line, without the library's advice on calling it from Python."""
    return " ".join(str(error).partition("Example of usage")[0].split()).rstrip(".")
