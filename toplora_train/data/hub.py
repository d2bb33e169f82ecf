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


@dataclass(frozen=True)
class Source:
    """A source of rows, and which of them are read.

    Attributes:
        name: One of the forms in :mod:`toplora_train.data.availability`.
        subset: A Hub dataset's configuration name.
        split: The split of a Hub dataset, or of a folder whose files are named after splits, or a
            slice of it: ``train[:10%]``. Of a single file only the slice matters.
        revision: A Hub dataset's branch, tag or commit.
        data_root: A folder tried before the cache and the network.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    data_root: Path | None = None

    @property
    def mirror(self) -> Path | None:
        """Where ``data_root`` would have a Hub dataset."""
        return self.data_root and (self.data_root / "hub" / self.name).absolute()

    @property
    def commit(self) -> str | None:
        """The revision, if it is a commit."""
        return self.revision if _COMMIT.fullmatch(self.revision or "") else None


def read_mirror(folder: Path, source: Source) -> Iterator[Record]:
    """Read one split of a local folder with the layout of a Hub dataset.

    A mirror has one unknown revision; a warning is logged if the source has one.

    Raises:
        UserError: No such subset or split, or files that cannot be read.
    """
    import datasets  # slow to import, and most runs read plain files

    if source.revision is not None:
        logger.warning(
            "%s: local copy; cannot verify that it is revision %s", folder, source.revision
        )
    try:
        with _one_line(str(folder)), _no_progress_bars():
            table = datasets.load_dataset(str(folder), name=source.subset, split=source.split)
        return _records(table, source, str(folder))
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


def cached_set(source: Source) -> CachedSet | None:
    """The newest cached copy with the split, and with the commit if the revision is one."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, short = source.name.partition("/")
    root = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(short)}"
    subset = glob.escape(source.subset) if source.subset else "*"
    found = []
    for path in root.glob(f"{subset}/*/{source.commit or '*'}/dataset_info.json"):
        stored = read_json(path).get("splits") or {}
        splits = validate(dict[str, dict[str, Any]], stored, f"{path}: splits")
        base = source.split.partition("[")[0]
        if base in splits:
            rows = splits[base].get("num_examples") if base == source.split else None
            validate(int | None, rows, f"{path}: num_examples")  # type: ignore[arg-type]
            found.append((path.stat().st_mtime, CachedSet(path.parent, path.parent.name, rows)))
    return max(found, key=lambda one: one[0])[1] if found else None


def read_hub(source: Source) -> tuple[Iterator[Record], str]:
    """Read one split of the Hub dataset ``owner/name``; offline, its cached copy.

    Returns:
        The records and the commit that was read.

    Raises:
        UserError: The dataset is not available, or has no such subset or split, or the Hub is
            unreachable and the cached commit is not the pinned one.
    """
    import datasets

    name = source.name
    try:
        with _one_line(name), _no_progress_bars():
            builder = _cached_builder(source) or datasets.load_dataset_builder(
                name, name=source.subset, revision=source.revision
            )
            _validate_commit(source, str(builder.hash))
            builder.download_and_prepare()
            table = builder.as_dataset(split=source.split)
    except OSError as error:
        mirror = f"no mirror at {source.mirror}" if source.mirror else "no data_root was given"
        raise UserError(
            f"{name}: no such local path, {mirror}, and the Hub dataset cannot be loaded "
            f"({_line(error)}); name a local file, or put a copy in DATA_ROOT/hub/{name} and "
            "set data_root=DATA_ROOT"
        ) from None
    return _records(table, source, name), str(builder.hash)


def _cached_builder(source: Source) -> Any:
    """The library's cache reader for the pinned commit; None if that is not cached.

    A commit never changes, so the Hub need not be queried; and offline the library would use the
    newest cached copy, whatever its commit.
    """
    from datasets.packaged_modules.cache.cache import Cache

    found = cached_set(source) if source.commit else None
    if found is None:
        return None
    config, version = found.folder.parts[-3:-1]
    return Cache(
        repo_id=source.name,
        dataset_name=source.name.partition("/")[2],
        config_name=config,
        version=version,
        hash=found.commit,
    )


def _validate_commit(source: Source, found: str) -> None:
    """If the Hub is unreachable, the library uses the newest cached copy, whatever its commit."""
    if source.commit and found != source.commit:
        raise UserError(
            f"{source.name}: revision {source.commit} is pinned, but the Hub is unreachable and "
            f"the cache has {found}; download the pinned revision with network access, or pin the "
            "cached one"
        )


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


def _records(table: Any, source: Source, path: str) -> Iterator[Record]:
    import datasets

    place = f"{path} ({f'{source.subset}, ' if source.subset else ''}{source.split})"
    for column, kind in table.features.items():
        if isinstance(kind, datasets.Image):  # decoded where a model takes it
            table = table.cast_column(column, datasets.Image(decode=False))
    rows = with_class_names(table, table.features.arrow_schema)
    return (
        Record(f"{place}, row {number}", f"{source.split}-{number}", fields)
        for number, fields in enumerate(rows, start=1)
    )


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
