"""LLM-Adapters' data files (arXiv:2304.01933): their paths, git blob ids and addresses.

The table ``llm_adapters.tsv`` is for one commit of the repository. Two environment variables
customize it: ``TOPLORA_LLM_ADAPTERS_URL`` is the address of a mirror with the repository's layout,
``TOPLORA_LLM_ADAPTERS_TABLE`` a file in the table's format, whose entries are added to the built-in
ones or replace them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from toplora_train.config.errors import UserError

REPOSITORY = "AGI-Edgerunners/LLM-Adapters"
COMMIT = "816657208af4db747803f87ba40a4c71383fed7a"
BASE_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}"
URL_VARIABLE = "TOPLORA_LLM_ADAPTERS_URL"
TABLE_VARIABLE = "TOPLORA_LLM_ADAPTERS_TABLE"
TABLE = Path(__file__).with_name("llm_adapters.tsv")
_COLUMNS = "git blob id, bytes, rows, licence, path"
_BLOB_ID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class KnownFile:
    """A file and its git blob id; None means unknown."""

    path: str
    blob: str
    size: int | None
    rows: int | None
    licence: str | None


def known_files() -> dict[str, KnownFile]:
    """The built-in table by path, updated with ``$TOPLORA_LLM_ADAPTERS_TABLE``.

    Raises:
        UserError: The environment's table is missing or has a malformed line.
    """
    files = _read(TABLE)
    if more := os.environ.get(TABLE_VARIABLE):
        files |= _read(Path(more).expanduser())
    return files


def address(path: str) -> str:
    """The download URL of a file."""
    return f"{(os.environ.get(URL_VARIABLE) or BASE_URL).rstrip('/')}/{path}"


def _read(table: Path) -> dict[str, KnownFile]:
    try:
        text = table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{TABLE_VARIABLE}={table}: cannot be read ({reason})") from None
    files = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        file = _parse(line.split("\t"), f"{table}, line {number}")
        files[file.path] = file
    return files


def _parse(cells: list[str], place: str) -> KnownFile:
    wrong = f"{place}: needs the tab-separated columns {_COLUMNS}, with - for unknown values"
    if len(cells) != 5:
        raise UserError(wrong)
    blob, size, rows, licence, path = (cell.strip() for cell in cells)
    numbers = [None if cell == "-" else cell for cell in (size, rows)]
    if not _BLOB_ID.fullmatch(blob) or any(cell and not cell.isdecimal() for cell in numbers):
        raise UserError(wrong)
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise UserError(f"{place}: '{path}' is not a path inside the repository")
    bytes_, count = (None if cell is None else int(cell) for cell in numbers)
    return KnownFile(path, blob, bytes_, count, None if licence == "-" else licence)
