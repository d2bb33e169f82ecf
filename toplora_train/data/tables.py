"""Tables as records, read with pyarrow: CSV, TSV, Parquet, and Arrow files of ``save_to_disk``.

Every value of a CSV or TSV file stays text, so ``007`` and ``NA`` are what the file says; an empty
cell without quotes is an absent value, as pandas writes it. A column that ``datasets`` declares as
``ClassLabel`` keeps the names of its classes.
"""

from __future__ import annotations

import csv as strict_csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.reading import read_json, validate_file

CODECS = {".gz": "gzip", ".zst": "zstd"}
"""The suffixes of compressed files, with pyarrow's names of their codecs."""


class ClassNumber(int):
    """A class's number, with the name that the column's type gives it; "" for a hidden label."""

    name: str


def with_class_names(rows: Iterable[Any], schema: Any) -> Iterator[Any]:
    """The rows, with a :class:`ClassNumber` in each column that ``schema`` declares as classes.

    Args:
        rows: Mappings from column to value.
        schema: Their Arrow schema, in whose metadata ``datasets`` writes its own types.
    """
    try:
        written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        columns = {
            column: dict(enumerate(map(str, kind["names"])))
            for column, kind in written["info"]["features"].items()
            if kind.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # not written by datasets
        columns = {}
    for row in rows:
        for column, names in columns.items():
            if isinstance(row.get(column), int):
                row[column] = ClassNumber(row[column])
                row[column].name = names.get(row[column], "")
        yield row


def decompressed(path: Path) -> bytes:
    """The content of a ``.gz`` or ``.zst`` file.

    Raises:
        UserError: It cannot be read, or is not compressed so.
    """
    import pyarrow as pa  # type: ignore[import-untyped]  # has no types; slow to import

    validate_file(path)
    codec = CODECS[path.suffix]
    try:
        with pa.input_stream(str(path), compression=codec) as stream:
            content: bytes = stream.read()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, codec, error) from None
    return content


STRAY_QUOTE = (
    "a cell begins with a quotation mark that does not quote it; write the cell in quotation marks "
    "and double those inside, or save the file as JSON lines"
)
ROWS = 1000
"""Rows of a table that are Python objects at a time."""


def csv_rows(content: bytes, path: Path, delimiter: str | None = None) -> Iterator[Any]:
    """The rows of a delimited text with a header line.

    Args:
        content: UTF-8, not empty.
        path: The file, for error messages.
        delimiter: Between cells; None finds out whether it is ``,``, ``;`` or a tab.

    Raises:
        UserError: It is not such a text, or two columns have one name.
    """
    import pyarrow as pa
    from pyarrow import csv

    header = content.partition(b"\n")[0].decode("utf-8", "replace")
    between = delimiter or max(",;\t", key=header.count)
    parse = csv.ParseOptions(delimiter=between, newlines_in_values=True)
    read = csv.ReadOptions(use_threads=False, block_size=max(len(content), 1))  # numbers bad rows
    try:
        with csv.open_csv(io.BytesIO(content), read, parse) as opened:
            names = opened.schema.names
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        table = csv.read_csv(io.BytesIO(content), read, parse, convert)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, "CSV", error) from None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns are named '{twice}'; rename one of them")
    _validate_quotes(content, path, between)
    for batch in table.to_batches(ROWS):
        yield from batch.to_pylist()


def _validate_quotes(content: bytes, path: Path, delimiter: str) -> None:
    """Refuse quotation marks that belong to a text and would join or change cells.

    Raises:
        UserError: Text follows a closing mark, or a cell of a tab-separated file has both a tab and
            the end of a line.
    """
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    rows = strict_csv.reader(text, delimiter=delimiter, strict=True)
    before = strict_csv.field_size_limit(len(content) + 1)
    try:
        for row in rows:
            if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in row):
                raise UserError(f"{path}, line {rows.line_num}: {STRAY_QUOTE}")
    except strict_csv.Error:
        raise UserError(f"{path}, line {rows.line_num}: {STRAY_QUOTE}") from None
    finally:
        strict_csv.field_size_limit(before)


def parquet_rows(path: Path) -> Iterator[Any]:
    """The rows of a Parquet file.

    Raises:
        UserError: It is none, or a value has no equal in Python.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # likewise

    validate_file(path)
    try:
        with pq.ParquetFile(path) as file:
            yield from _rows(file.iter_batches(ROWS), file.schema_arrow)
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:  # a date after 9999
        raise _unreadable(path, "Parquet", error) from None


def is_saved(folder: Path) -> bool:
    """Whether ``datasets`` wrote this folder: ``Dataset.save_to_disk``."""
    return (folder / "state.json").is_file()


def saved_splits(folder: Path) -> list[str]:
    """The splits of a folder of ``DatasetDict.save_to_disk``; none of another folder's."""
    listing = folder / "dataset_dict.json"
    return [str(name) for name in read_json(listing).get("splits", [])] if listing.is_file() else []


def saved_rows(folder: Path) -> Iterator[Any]:
    """The rows of a folder of ``Dataset.save_to_disk``.

    Raises:
        UserError: A file is missing or damaged.
    """
    import pyarrow as pa

    state = folder / "state.json"
    listed = read_json(state).get("_data_files")
    for number, one in enumerate(listed if isinstance(listed, list) else [None], start=1):
        name = one.get("filename") if isinstance(one, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{state}: data file {number} has no plain file name; save it again")
        path = folder / name
        validate_file(path)
        try:
            with pa.memory_map(str(path)) as file:
                stream = pa.ipc.open_stream(file)
                yield from _rows(stream, stream.schema)
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
            raise _unreadable(path, "Arrow", error) from None


def _rows(batches: Iterable[Any], schema: Any) -> Iterator[Any]:
    """The rows of record batches that are valid."""
    for batch in batches:
        batch.validate(full=True)
        for first in range(0, batch.num_rows, ROWS):
            yield from with_class_names(batch.slice(first, ROWS).to_pylist(), schema)


def _unreadable(path: Path, what: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"{path}: cannot be read as {what} ({reason})")
