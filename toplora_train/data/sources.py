"""Read the rows of sources; see :mod:`toplora_train.data.availability` for their forms."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.data.availability import FORMS, HUB_ID, fetch
from toplora_train.data.files import Record, is_file_name, read_file, read_folder
from toplora_train.data.hub import Source, read_hub, read_mirror
from toplora_train.data.on_disk import OnDisk
from toplora_train.data.parts import part, sliced, weighted, without_part
from toplora_train.data.rows import Row, RowSet, content_hash, parse_row

RowParser = Callable[..., Row]
"""Like :func:`toplora_train.data.rows.parse_row`."""


def read_rows(
    source: str,
    *,
    data_root: Path | None = None,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
    needs_answer: bool = False,
    parse: RowParser = parse_row,
) -> RowSet:
    """Find a source and read its rows.

    Args:
        source: One of the forms in :mod:`toplora_train.data.availability`; paths are relative to
            the working directory.
        data_root: A folder tried before the cache and the network.
        subset: A Hub dataset's configuration name; an error for a file, which has none.
        split: The split of a Hub dataset or folder, or a slice of it.
        revision: A Hub dataset's branch, tag or commit.
        limit: Use only the first ``limit`` rows (all are validated).
        needs_answer: Whether a row without ``answer`` is an error.
        parse: Converts a record to a row, given its ``place`` and ``default_id``.

    Returns:
        The rows. A row's id is its ``id`` field, else ``FILE_STEM-NUMBER``, counted from 1.

    Raises:
        UserError: The source does not exist, cannot be read, or a row is invalid.
    """
    if data_root is not None and not data_root.is_dir():
        raise UserError(f"data_root={data_root} is not a folder; correct or remove data_root")
    prefix, whole = without_part(source)
    records, found = _find(Source(whole, subset, split, revision, data_root))
    if needs_answer:
        parse = partial(parse, needs_answer=True)
    hashes = array("q")  # of the ids: all ids would need more memory

    def parsed() -> Iterator[Row]:
        for record in records:
            row = parse(record.fields, place=record.place, default_id=record.default_id)
            hashes.append(hash(row.id))
            yield row

    rows = OnDisk(parsed())
    _validate_unique_ids(rows, hashes)
    labels = [row.answer for row in rows] if prefix else ()
    taken = part(rows, prefix, found, labels)[:limit]
    return RowSet(taken, f"{prefix}{found}", content_hash(taken))


def read_union(sources: Sequence[tuple[str, float]], **how: Any) -> RowSet:
    """Read and concatenate several sources, each with its weight, with :func:`read_rows`.

    A ``limit`` applies to each source. A source of weight 2 has every row twice. With more than one
    source an id becomes ``NUMBER_OF_SOURCE/ID``, because files with the same name in two folders
    would share ids.

    Args:
        sources: The sources with their weights.
        how: The other arguments of :func:`read_rows`.

    Raises:
        UserError: As :func:`read_rows`, or there are no sources, or one is given twice.
    """
    if not sources:
        raise UserError("no data source was given; a source is " + FORMS)
    sets = [_weighted(weight, read_rows(source, **how)) for source, weight in sources]
    if len(sets) == 1:
        return sets[0]
    places = [one.source for one in sets]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place} is given twice as a source; remove one")
    rows = OnDisk(
        replace(row, id=f"{number}/{row.id}")
        for number, one in enumerate(sets, start=1)
        for row in one.rows
    )
    return RowSet(rows, ", ".join(places), content_hash(rows))


def _weighted(weight: float, rows: RowSet) -> RowSet:
    if weight == 1:
        return rows
    taken = OnDisk(weighted(rows.rows, weight))
    if not taken:
        raise UserError(f"{rows.source}: weight {weight:g} leaves no rows; raise it")
    return RowSet(taken, f"{weight:g} x {rows.source}", content_hash(taken))


def _find(source: Source) -> tuple[Iterable[Record], str]:
    """The records of a source and their location."""
    name, split, path = source.name, source.split, Path(source.name).expanduser()
    if name.startswith(("bundled:", "llm-adapters:")):
        found = fetch(source).place
        assert found is not None
        path = found
    elif not path.exists():
        return _find_hub(source)
    path = path.absolute()
    if path.is_dir():
        if source.subset is not None:
            return read_mirror(path, source), str(path)
        records = sliced(read_folder(path, split=split.partition("[")[0]), split, str(path))
    else:
        if source.subset is not None:
            raise UserError(
                f"{name}: subset={source.subset} is for Hub datasets, this is a file; remove subset"
            )
        records = sliced(read_file(path), split, str(path))
    if source.revision is not None:
        raise UserError(
            f"{name}: revision={source.revision} is for Hub datasets, this is local; remove "
            "revision"
        )
    return records, str(path)


def _find_hub(source: Source) -> tuple[Iterable[Record], str]:
    if HUB_ID.fullmatch(source.name) is None or is_file_name(Path(source.name)):
        raise UserError(f"{source.name}: no such file or folder; a source is {FORMS}")
    if source.mirror is not None and source.mirror.is_dir():
        return read_mirror(source.mirror, source), str(source.mirror)
    records, commit = read_hub(source)
    return records, f"{source.name}@{commit}"


def _validate_unique_ids(rows: Sequence[Row], hashes: Iterable[int]) -> None:
    """Ids must be unique, as runs are compared row by row."""
    suspects = {one for one, other in pairwise(sorted(hashes)) if one == other}
    first: dict[str, str] = {}
    for row in rows if suspects else ():
        if row.id in first:
            raise UserError(
                f"{row.where}: duplicate id '{row.id}', also used by {first[row.id]}; ids must "
                "be unique"
            )
        if hash(row.id) in suspects:
            first[row.id] = row.where
