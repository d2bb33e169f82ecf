"""Read a file that anybody may have written: only regular files, of bounded size, as UTF-8."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import yaml

from toplora_train.config.errors import UserError
from toplora_train.config.locate import readable

SETTINGS_LIMIT = 4 * 2**20  # bytes of a configuration file
NODES_LIMIT = 200_000  # values of a YAML file, counted where an alias repeats them


def read_bytes(path: Path, *, limit: int) -> bytes:
    """The content of a regular file; a pipe or device, which may never end, is not opened.

    Raises:
        UserError: There is no such file, it is not a regular one, or it exceeds ``limit`` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise UserError(f"{readable(path)}: not a regular file")
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise UserError(f"{readable(path)}: no such file") from None
    except OSError as error:
        raise UserError(f"{readable(path)}: cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise UserError(
            f"{readable(path)}: has {found.st_size:,} bytes; at most {limit:,} are read"
        )
    return content


def read_text(path: Path, *, limit: int = SETTINGS_LIMIT) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
        UserError: See :func:`read_bytes`; or it is not UTF-8: names the line.
    """
    raw = read_bytes(path, limit=limit)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(
            f"{readable(path)}, line {line}: not UTF-8; save the file as UTF-8"
        ) from None


def read_yaml(path: Path) -> str:
    """The text of a YAML file whose aliases do not expand without bounds.

    Raises:
        UserError: See :func:`read_text`; or it is not valid YAML, nested too deep or too large.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        size = _expanded(node, {}) if node is not None else 0
    except yaml.YAMLError as error:
        raise UserError(yaml_problem(error, path)) from error
    except RecursionError:
        raise UserError(f"{readable(path)}: nested too deep, or contains itself") from None
    if size > NODES_LIMIT:
        raise UserError(f"{readable(path)}: its aliases expand to more than {NODES_LIMIT:,} values")
    return text


def yaml_problem(error: yaml.YAMLError, path: Path | None = None) -> str:
    """Where and why a file is not valid YAML, in one line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if path is None and mark is not None:
        path = Path(mark.name)
    place = readable(path) if path is not None else "a configuration file"
    line = f", line {mark.line + 1}" if mark is not None else ""
    reason = getattr(error, "problem", None) or "cannot be parsed"
    return f"{place}{line}: not valid YAML ({reason})"


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """The values in a node, an alias's counted each time; one inside itself is a RecursionError."""
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_expanded(one, known) for one in inner)
    return known[id(node)]
