"""Datasets in the Hugging Face Hub's layout: from a local mirror, the cache or the Hub."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.reading import read_json, validate
from toplora_train.data.files import Record
from toplora_train.data.tables import with_class_names

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")


def read_mirror(
    folder: Path, *, subset: str | None, split: str, revision: str | None
) -> list[Record]:
    """Read one split of a local folder with the layout of a Hub dataset.

    A mirror has one unknown revision; a warning is logged if ``revision`` is given.

    Raises:
        UserError: No such subset or split, or files that cannot be read.
    """
    if revision is not None:
        logger.warning("%s: local copy; cannot verify that it is revision %s", folder, revision)
    try:
        return _load(str(folder), subset=subset, split=split)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a dataset ({_line(error)})") from None


@dataclass(frozen=True)
class CachedSet:
    """A Hub dataset in the cache of the ``datasets`` library: one subset at one commit."""

    folder: Path
    commit: str
    rows: int | None  # of the split, if the library recorded it


def hub_address(name: str, revision: str | None) -> str:
    """The URL of a Hub dataset at a revision."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    return f"{endpoint}/datasets/{name}/tree/{revision or 'main'}"


def cached_set(
    name: str, *, subset: str | None, split: str, revision: str | None
) -> CachedSet | None:
    """The newest cached copy with the split, and with the commit if ``revision`` is one."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, short = name.partition("/")
    root = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(short)}"
    commit = revision if revision and _COMMIT.fullmatch(revision) else "*"
    found = []
    for path in root.glob(f"{glob.escape(subset) if subset else '*'}/*/{commit}/dataset_info.json"):
        stored = read_json(path).get("splits") or {}
        splits = validate(dict[str, dict[str, Any]], stored, f"{path}: splits")
        base = split.partition("[")[0]
        if base in splits:
            rows = splits[base].get("num_examples") if base == split else None
            validate(int | None, rows, f"{path}: num_examples")  # type: ignore[arg-type]
            found.append((path.stat().st_mtime, CachedSet(path.parent, path.parent.name, rows)))
    return max(found, key=lambda one: one[0])[1] if found else None


def read_hub(
    name: str, *, subset: str | None, split: str, revision: str | None, tried: Path | None
) -> tuple[list[Record], str]:
    """Read one split of the Hub dataset ``owner/name``; offline, its cached copy.

    Args:
        name: The Hub id.
        subset: The Hub's configuration name.
        split: The split; slices such as ``train[:100]`` are supported.
        revision: Branch, tag or commit.
        tried: The mirror folder that was tried before, for the error message.

    Returns:
        The records and the commit that was read.

    Raises:
        UserError: The dataset is not available, or has no such subset or split, or the Hub is
            unreachable and the cached commit is not the pinned one.
    """
    import datasets  # slow to import, and most runs read plain files

    try:
        with _one_line(name), _no_progress_bars():
            builder = _cached_builder(name, subset, split, revision)
            if builder is None:
                builder = datasets.load_dataset_builder(name, name=subset, revision=revision)
            _validate_commit(name, revision, str(builder.hash))
            builder.download_and_prepare()
            table = builder.as_dataset(split=split)
    except OSError as error:
        mirror = f"no mirror at {tried}" if tried else "no data_root was given"
        raise UserError(
            f"{name}: no such local path, {mirror}, and the Hub dataset cannot be loaded "
            f"({_line(error)}); name a local file, or put a copy in DATA_ROOT/hub/{name} and "
            "set data_root=DATA_ROOT"
        ) from None
    return _records(table, name, subset=subset, split=split), str(builder.hash)


def _cached_builder(name: str, subset: str | None, split: str, revision: str | None) -> Any:
    """The library's cache reader for the pinned commit; None if that is not cached.

    A commit never changes, so the Hub need not be queried; and offline the library would use the
    newest cached copy, whatever its commit.
    """
    from datasets.packaged_modules.cache.cache import Cache

    pinned = revision is not None and _COMMIT.fullmatch(revision)
    found = cached_set(name, subset=subset, split=split, revision=revision) if pinned else None
    if found is None:
        return None
    config, version = found.folder.parts[-3:-1]
    short = name.partition("/")[2]
    return Cache(
        repo_id=name, dataset_name=short, config_name=config, version=version, hash=found.commit
    )


def _validate_commit(name: str, revision: str | None, found: str) -> None:
    """If the Hub is unreachable, the library uses the newest cached copy, whatever its commit."""
    if revision and _COMMIT.fullmatch(revision) and found != revision:
        raise UserError(
            f"{name}: revision {revision} is pinned, but the Hub is unreachable and the cache has "
            f"{found}; download the pinned revision with network access, or pin the cached one"
        )


def _load(path: str, *, subset: str | None, split: str) -> list[Record]:
    import datasets  # slow to import, and most runs read plain files

    with _one_line(path), _no_progress_bars():
        table = datasets.load_dataset(path, name=subset, split=split)
    return _records(table, path, subset=subset, split=split)


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    """Convert the library's errors to a UserError on one line."""
    from datasets.exceptions import DatasetGenerationError

    try:
        yield
    except DatasetGenerationError as error:
        raise UserError(
            f"{path}: a file cannot be read ({_line(error.__cause__ or error)})"
        ) from None
    except ValueError as error:
        message = _line(error)
        raise UserError(f"{path}: {message}; set subset and split to what it has") from None


def _records(table: Any, path: str, *, subset: str | None, split: str) -> list[Record]:
    place = f"{path} ({f'{subset}, ' if subset else ''}{split})"
    rows = with_class_names(table, table.features.arrow_schema)
    return [
        Record(f"{place}, row {number}", f"{split}-{number}", fields)
        for number, fields in enumerate(rows, start=1)
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
    """An exception's text on one line, without the library's advice on its Python API."""
    return " ".join(str(error).partition("Example of usage")[0].split()).rstrip(".")
