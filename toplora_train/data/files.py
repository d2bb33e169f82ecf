"""Read data files as records, each with its location for error messages.

JSON and JSON Lines are read with the standard library, which reports the line of an error; tables
with pyarrow (:mod:`toplora_train.data.tables`). Data files may have any size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.reading import decoded, parse_json, read_bytes
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


def read_file(path: Path) -> list[Record]:
    """Read every record of a data file; its name says which format it has.

    Raises:
        UserError: The file is missing, unreadable, empty, invalid or of an unknown format.
    """
    if not is_file_name(path):
        raise UserError(
            f"{path}: unknown file format '{path.suffix}'; supported are {NAMES}: convert the "
            "file, or rename it if its content is one of these"
        )
    if path.suffix == ".parquet":
        records = _numbered(tables.parquet_rows(path), path)
    else:
        content = (
            tables.decompressed(path)
            if path.suffix in tables.CODECS
            else read_bytes(path, limit=None)
        )
        records = _parse(content, path, _format(path))
    if not records:
        raise UserError(f"{path}: contains no rows")
    return records


def _format(path: Path) -> str:
    """The suffix that names the format, without that of a compression."""
    return Path(path.stem).suffix if path.suffix in tables.CODECS else path.suffix


def _parse(content: bytes, path: Path, format: str) -> list[Record]:
    text = decoded(content, path)
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    if format in (".csv", ".tsv"):
        return _numbered(tables.csv_rows(content, path, "\t" if format == ".tsv" else None), path)
    return _parse_json(text, path) if format == ".json" else _parse_lines(text, path)


def read_folder(folder: Path, *, split: str) -> list[Record]:
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
        records = _numbered(tables.saved_rows(saved), saved)
        if not records:
            raise UserError(f"{saved}: contains no rows")
        return records
    paths = sorted(path for path in folder.iterdir() if is_file_name(path))
    if not paths:
        images = labelled_images(folder, split)
        if images:
            return [
                Record(str(path), f"{label.name}/{path.name}", {"image": path, "label": label})
                for path, label in images
            ]
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
    return [record for path in paths for record in read_file(path)]


def _split_of(path: Path) -> str | None:
    """The split at the start of a file name (``test`` of ``test-00000-of-00002``), if any."""
    first = path.stem.replace("_", "-").replace(".", "-").split("-")[0].lower()
    return first if first in SPLIT_NAMES else None


def _parse_json(text: str, path: Path) -> list[Record]:
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
    return _numbered(content, path)


def _parse_lines(text: str, path: Path) -> list[Record]:
    records: list[Record] = []
    # Not splitlines(): JSON strings may contain U+2028 and similar, which are not line breaks here.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
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
        default_id = f"{_stem(path)}-{len(records) + 1}"
        records.append(Record(f"{path}, line {number}", default_id, fields))
    return records


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix in tables.CODECS else path.stem


def _numbered(content: list[object], path: Path) -> list[Record]:
    return [
        Record(f"{path}, row {number}", f"{_stem(path)}-{number}", fields)
        for number, fields in enumerate(content, start=1)
    ]
