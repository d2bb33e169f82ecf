"""Read files that come from outside: the one way in for text, JSON, YAML and schemas.

A file may be missing, a pipe, far too large, in another encoding, or well-formed but absurd. Every
such case is a :class:`UserError` in one line that names the file; no other exception leaves here.
"""

from __future__ import annotations

import json
import stat
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from toplora_train.config.errors import UserError, requirement

DOCUMENT = 64 * 2**20
"""Bytes that a configuration, report, manifest or similar document may have."""
DEPTH = 100
"""Nested lists and objects that JSON may have; deeper ones exhaust Python's stack elsewhere."""

Checked = TypeVar("Checked")


def read_bytes(path: Path, *, limit: int | None = DOCUMENT) -> bytes:
    """The content of a regular file; ``limit`` is in bytes, None for files of any size.

    Raises:
        UserError: There is no such file, it cannot be read, is not a file, or exceeds the limit.
    """
    validate_file(path, limit=limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def open_file(path: Path) -> BinaryIO:
    """A regular file of any size, open to be read in parts.

    Raises:
        UserError: See :func:`read_bytes`.
    """
    validate_file(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None


def validate_file(path: Path, *, limit: int | None = None) -> None:
    """Refuse what is not a regular file, as reading a pipe or a device may never end.

    Raises:
        UserError: See :func:`read_bytes`.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise UserError(f"{path}: cannot be read (it is {what}, not a file)")
    if limit is not None and found.st_size > limit:
        raise UserError(f"{path}: larger than the {limit / 2**20:g} MiB that such a file may have")


def read_text(path: Path, *, limit: int | None = DOCUMENT) -> str:
    """The content of a UTF-8 file, without a byte-order mark.

    Raises:
        UserError: See :func:`read_bytes`; or it is not UTF-8: names the line.
    """
    return decoded(read_bytes(path, limit=limit), path)


def decoded(raw: bytes, path: Path, *, line: int = 1) -> str:
    """The text of a file's bytes, without a byte-order mark at the file's start.

    Args:
        raw: The bytes, from the start of a line on.
        path: The file.
        line: The number of that line.

    Raises:
        UserError: They are not UTF-8: names the line.
    """
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += raw[: error.start].count(b"\n")
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None


def read_json(path: Path, *, limit: int = DOCUMENT) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: See :func:`read_text`; or it is not a JSON object.
    """
    text = read_text(path, limit=limit)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: invalid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a JSON object, not {type(content).__name__}")
    return content


def parse_json(text: str) -> Any:
    """Parse JSON whose objects have no key twice and which is at most ``DEPTH`` deep.

    Raises:
        ValueError: It is not such JSON; a :class:`json.JSONDecodeError` if that has a position.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"nested more than {DEPTH} deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):  # Python's, on digits of an integer
            raise ValueError("an integer of more than 4300 digits") from None
        raise
    if text.count("[") + text.count("{") > DEPTH:
        _validate_depth(content)
    return content


def json_lines(path: Path, *, last: int | None = None) -> list[tuple[int, Any]]:
    """The number and value of each line of a file that a process appends JSON to.

    A line that a crash cut off is left out, and so is a last one without a newline, even if it
    happens to be valid.

    Args:
        path: The file.
        last: Read at most this many bytes from its end.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if last is not None:
            file.seek(max(0, path.stat().st_size - last))
        lines = file.read().decode("utf-8", errors="replace").split("\n")[:-1]
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append((number, parse_json(line)))
        except ValueError:
            continue
    return found


def parse_yaml(text: str) -> Any:
    """Parse YAML; a single exception for all that can be wrong with it.

    Raises:
        ValueError: It is not YAML, too deep, or has a value that Python cannot represent.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError("nested too deeply") from None


def validate(kind: type[Checked], value: object, place: str) -> Checked:
    """The value as an instance of a dataclass or other type, see :func:`validate_json`."""
    try:
        return validate_json(kind, json.dumps(value), place)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place}: {error}") from None


def validate_json(kind: type[Checked], text: str, place: str) -> Checked:
    """The JSON text as an instance of a dataclass or other type, checked by pydantic.

    Types are strict: a string is not a number, and 1 is not a boolean.

    Raises:
        UserError: It is none; names ``place``, the key and what it must be.
    """
    try:
        checked: Checked = _adapter(cast(Any, kind)).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{place}: {first_problem(error)}") from None
    return checked


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints in a few words: the key and what is wrong with it."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in {"missing", "missing_argument"}:
        return f"no '{key}'"
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"unknown key '{key}'"
    if problem["type"] == "json_invalid":
        return f"invalid JSON ({problem['ctx']['error']})"
    return f"'{key}' must be {requirement(problem)}" if key else f"must be {requirement(problem)}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice}' occurs twice in one object")
    return content


def _validate_depth(content: Any) -> None:
    level: list[Any] = [content]
    for _ in range(DEPTH + 1):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level]
        lists = [one for one in inner if isinstance(one, list)]
        if not lists:
            return
        level = list(chain.from_iterable(lists))
    raise ValueError(f"nested more than {DEPTH} deep")


def _unreadable(path: Path, error: OSError | ValueError) -> UserError:
    return UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")
