"""Writing JSON: atomically, or line by line as a job goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from toplora_train.config.aside import write_aside


def plain_json(value: Any) -> Any:
    """Return ``value`` with NaN and infinity, which JSON does not have, replaced by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return value


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` atomically.

    A byte of a file's name that is not UTF-8 is written as an escape, which JSON reads back.
    """
    write_aside(path, text.encode("utf-8", errors="backslashreplace"))


def write_json_atomically(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    text = json.dumps(plain_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + "\n")


class AppendedLines:
    """A file of JSON lines, each flushed as it is appended; a context manager.

    Args:
        path: The file. If it exists it is replaced, which drops a last line that was cut off.
        lines: The lines that it starts with.
    """

    def __init__(self, path: Path, lines: Iterable[Any] = ()) -> None:
        write_text_atomically(path, "".join(json_line(values) for values in lines))
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def append_line(self, values: Any) -> None:
        """Append a line; it survives the end of this process."""
        self._file.write(json_line(values))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def json_line(values: Any) -> str:
    """One line of a file of JSON lines."""
    return json.dumps(values, ensure_ascii=False) + "\n"
