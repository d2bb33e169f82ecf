"""Read the rows of sources; see :mod:`toplora_train.data.availability` for their forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.data.availability import FORMS, HUB_ID, fetch
from toplora_train.data.files import Record, is_file_name, read_file, read_folder
from toplora_train.data.hub import read_hub, read_mirror
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
        split: The split of a Hub dataset, or of a folder whose files are named after splits, or
            a slice of it: ``train[:10%]``. Of a single file only the slice matters.
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
    records, found = _find(
        whole, data_root=data_root, subset=subset, split=split, revision=revision
    )
    if needs_answer:
        parse = partial(parse, needs_answer=True)
    rows = [
        parse(record.fields, place=record.place, default_id=record.default_id) for record in records
    ]
    _validate_unique_ids(rows, records)
    taken = tuple(part(rows, prefix, found, [row.answer for row in rows])[:limit])
    return RowSet(taken, f"{prefix}{found}", content_hash(taken))


def read_union(
    sources: Sequence[tuple[str, float]],
    *,
    data_root: Path | None = None,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
    parse: RowParser = parse_row,
) -> RowSet:
    """Read and concatenate several sources, each with its weight, with :func:`read_rows`.

    ``limit`` applies to each source. A source of weight 2 has every row twice. With more than one
    source an id becomes ``NUMBER_OF_SOURCE/ID``, because files with the same name in two folders
    would share ids.

    Raises:
        UserError: As :func:`read_rows`, or there are no sources, or one is given twice.
    """
    if not sources:
        raise UserError("no data source was given; a source is " + FORMS)
    sets = [
        _weighted(
            weight,
            read_rows(
                source,
                data_root=data_root,
                subset=subset,
                split=split,
                revision=revision,
                limit=limit,
                parse=parse,
            ),
        )
        for source, weight in sources
    ]
    if len(sets) == 1:
        return sets[0]
    places = [one.source for one in sets]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place} is given twice as a source; remove one")
    rows = tuple(
        replace(row, id=f"{number}/{row.id}")
        for number, one in enumerate(sets, start=1)
        for row in one.rows
    )
    return RowSet(rows, ", ".join(places), content_hash(rows))


def _weighted(weight: float, rows: RowSet) -> RowSet:
    if weight == 1:
        return rows
    taken = tuple(weighted(rows.rows, weight))
    if not taken:
        raise UserError(f"{rows.source}: weight {weight:g} leaves no rows; raise it")
    return RowSet(taken, f"{weight:g} x {rows.source}", content_hash(taken))


def _find(
    source: str, *, data_root: Path | None, subset: str | None, split: str, revision: str | None
) -> tuple[list[Record], str]:
    """The records of a source and their location."""
    if source.startswith(("bundled:", "llm-adapters:")):
        path = fetch(source, data_root=data_root).place
        assert path is not None
    else:
        path = Path(source).expanduser()
        if not path.exists():
            return _find_hub(
                source, data_root=data_root, subset=subset, split=split, revision=revision
            )
    path = path.absolute()
    if path.is_dir():
        if subset is not None:
            mirror = read_mirror(path, subset=subset, split=split, revision=revision)
            return mirror, str(path)
        records = sliced(read_folder(path, split=split.partition("[")[0]), split, str(path))
    else:
        if subset is not None:
            raise UserError(
                f"{source}: subset={subset} is for Hub datasets, this is a file; remove subset"
            )
        records = sliced(read_file(path), split, str(path))
    if revision is not None:
        raise UserError(
            f"{source}: revision={revision} is for Hub datasets, this is local; remove revision"
        )
    return records, str(path)


def _find_hub(
    source: str, *, data_root: Path | None, subset: str | None, split: str, revision: str | None
) -> tuple[list[Record], str]:
    if HUB_ID.fullmatch(source) is None or is_file_name(Path(source)):
        raise UserError(f"{source}: no such file or folder; a source is {FORMS}")
    mirror = None if data_root is None else (data_root / "hub" / source).absolute()
    if mirror is not None and mirror.is_dir():
        records = read_mirror(mirror, subset=subset, split=split, revision=revision)
        return records, str(mirror)
    records, commit = read_hub(source, subset=subset, split=split, revision=revision, tried=mirror)
    return records, f"{source}@{commit}"


def _validate_unique_ids(rows: Sequence[Row], records: Sequence[Record]) -> None:
    """Ids must be unique, as runs are compared row by row."""
    first: dict[str, str] = {}
    for row, record in zip(rows, records, strict=True):
        if row.id in first:
            raise UserError(
                f"{record.place}: duplicate id '{row.id}', also used by {first[row.id]}; ids must "
                "be unique"
            )
        first[row.id] = record.place
