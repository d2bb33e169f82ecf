"""Read data files as records, each with its location for error messages.

JSON and JSON Lines are read with the standard library, which reports the line of an error; tables
with pyarrow (:mod:`toplora_train.data.tables`). Data files may have any size: the records of JSON
Lines and Parquet are read one after the other, so only one of them need be in memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.reading import decoded, open_file, parse_json, read_bytes
from toplora_train.data import tables
from toplora_train.data.images import labelled_images

LONGEST_LINE = 4 * 2**20  # characters
TEXTS = (".json", ".jsonl", ".csv", ".tsv")  # may be compressed
SUFFIXES = (*TEXTS, ".parquet")
NAMES = ".json, .jsonl, .csv, .tsv and .parquet; all but .parquet also with .gz or .zst"
WHOLE_LIST = "a list belongs in a .json file: rename it, or write one object per line"
SPLIT_NAMES = ("train", "validation", "valid", "dev", "test", "eval")


@dataclass(frozen=True)
class Record:
    """A row as read from a file; rows and lines are counted from 1."""

    place: str
    default_id: str
    fields: object


def is_file_name(path: Path) -> bool:
    """Whether a path is named like a data file, compressed or not."""
    return path.suffix in SUFFIXES or _format(path) in TEXTS


def read_file(path: Path) -> Iterator[Record]:
    """Read the records of a data file one by one; its name says which format it has.

    Raises:
        UserError: The file is missing, unreadable, empty, invalid or of an unknown format.
    """
    if not is_file_name(path):
        raise UserError(
            f"{path}: unknown file format '{path.suffix}'; supported are {NAMES}: convert the "
            "file, or rename it if its content is one of these"
        )
    if path.suffix == ".parquet":
        return _numbered(tables.parquet_rows(path), path)
    compressed = path.suffix in tables.CODECS
    if _format(path) == ".jsonl":
        return _parse_lines(path, compressed=compressed)
    content = tables.decompressed(path) if compressed else read_bytes(path, limit=None)
    return _numbered(_parse(content, path, _format(path)), path)


def _format(path: Path) -> str:
    """The suffix that names the format, without that of a compression."""
    return Path(path.stem).suffix if path.suffix in tables.CODECS else path.suffix


def _parse(content: bytes, path: Path, format: str) -> Iterable[object]:
    text = decoded(content, path)
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    if format == ".json":
        return _parse_json(text, path)
    return tables.csv_rows(content, path, "\t" if format == ".tsv" else None)


def read_folder(folder: Path, *, split: str) -> Iterator[Record]:
    """Read the data files directly in a folder, sorted by name, or what ``save_to_disk`` wrote.

    Without data files it may be a folder per class of images (:mod:`toplora_train.data.images`).

    If files are named after splits (``train.jsonl``, ``test-00000.parquet``), only those of
    ``split`` are read, so that nobody trains on a test file by accident.

    Raises:
        UserError: There are no data files, none of the split, or only some are named after splits.
    """
    splits = tables.saved_splits(folder)
    if splits and split not in splits:
        raise UserError(f"{folder}: no split '{split}' (found: {', '.join(splits)})")
    saved = folder / split if splits else folder
    if tables.is_saved(saved):
        return _numbered(tables.saved_rows(saved), saved)
    paths = sorted(path for path in folder.iterdir() if is_file_name(path))
    if not paths:
        images = labelled_images(folder, split)
        if images:
            return (
                Record(str(path), f"{label.name}/{path.name}", {"image": path, "label": label})
                for path, label in images
            )
        raise UserError(
            f"{folder}: no data files in this folder (looked for {NAMES}, a folder of "
            "save_to_disk, or a folder of images per class); name a file, or set subset=NAME if it "
            "is a copy of a Hub dataset"
        )
    by_split = {path: _split_of(path) for path in paths}
    if any(by_split.values()):
        unnamed = [path.name for path, name in by_split.items() if name is None]
        if unnamed:
            raise UserError(
                f"{folder}: {unnamed[0]} is not named after a split, but other files are; name "
                "one file instead of the folder, or rename it"
            )
        paths = [path for path, name in by_split.items() if name == split]
        if not paths:
            found = ", ".join(sorted({str(name) for name in by_split.values()}))
            raise UserError(f"{folder}: no file of split '{split}' (found: {found})")
    return (record for path in paths for record in read_file(path))


def _split_of(path: Path) -> str | None:
    """The split at the start of a file name (``test`` of ``test-00000-of-00002``), if any."""
    first = path.stem.replace("_", "-").replace(".", "-").split("-")[0].lower()
    return first if first in SPLIT_NAMES else None


def _parse_json(text: str, path: Path) -> list[object]:
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data" and text.lstrip().startswith("{")
        remedy = "one object per line is JSON Lines: rename it to .jsonl" if lines else "correct it"
        raise UserError(
            f"{path}, line {error.lineno} column {error.colno}: invalid JSON ({error.msg}); "
            f"{remedy}"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: invalid JSON ({error}); correct it") from None
    if not isinstance(content, list):
        raise UserError(f"{path}: a .json file must be a list of rows; put the rows in [...]")
    return content


def _parse_lines(path: Path, *, compressed: bool) -> Iterator[Record]:
    """The records of lines that end in a line feed; U+2028 and similar are no line breaks here."""
    with io.BytesIO(tables.decompressed(path)) if compressed else open_file(path) as file:
        numbered = enumerate(file, start=1)
        lines = ((number, decoded(raw, path, line=number)) for number, raw in numbered)
        filled = ((number, line) for number, line in lines if line.strip())
        count = 0
        for count, (number, line) in enumerate(filled, start=1):
            fields = _parse_line(line, number, path)
            yield Record(f"{path}, line {number}", f"{_stem(path)}-{count}", fields)
    if not count:
        raise UserError(f"{path}: the file is empty")


def _parse_line(line: str, number: int, path: Path) -> object:
    if len(line) > LONGEST_LINE:  # encoding its text would take hours before it is refused
        raise UserError(
            f"{path}, line {number}: has {len(line):,} characters; at most {LONGEST_LINE:,} "
            "are read; split or remove the line"
        )
    try:
        fields = parse_json(line)
    except ValueError as error:
        whole = number == 1 and line.lstrip().startswith("[")
        remedy = WHOLE_LIST if whole else "correct or remove the line"
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f"{path}, line {number}: invalid JSON ({reason}); {remedy}") from None
    if isinstance(fields, list):
        raise UserError(f"{path}, line {number}: is a list, not one row; {WHOLE_LIST}")
    return fields


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix in tables.CODECS else path.stem


def _numbered(rows: Iterable[object], path: Path) -> Iterator[Record]:
    """The rows of a file or folder as records.

    Raises:
        UserError: There are none.
    """
    number = 0
    for number, fields in enumerate(rows, start=1):
        yield Record(f"{path}, row {number}", f"{_stem(path)}-{number}", fields)
    if not number:
        raise UserError(f"{path}: contains no rows")
