"""Read a YAML file that anybody may have written: of bounded size, also with its aliases."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from toplora_train.config.errors import UserError
from toplora_train.config.locate import conf_dir, readable, recipes_dir
from toplora_train.config.reading import read_text

SETTINGS_LIMIT = 4 * 2**20  # bytes of a configuration file
NODES_LIMIT = 200_000  # values of a YAML file, counted where an alias repeats them


class _Own(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader for the package's own files, several times as fast; a test compares it."""


_Own.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> str:
    """The text of a YAML file whose aliases do not expand without bounds.

    Raises:
        UserError: See :func:`~toplora_train.config.reading.read_text`; or it is not valid YAML,
            nested too deep, or expands too far.
    """
    text = read_text(path, limit=SETTINGS_LIMIT)
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


def option_values(path: Path) -> Any:
    """An option file's plain values, read as Hydra reads them: ``1e-4`` is a number.

    Interpolations are not resolved. A file that has not changed is parsed once: composing a
    configuration refers to most files several times.
    """
    found = path.stat()
    return deepcopy(_parsed(path, found.st_mtime_ns, found.st_size))


@cache
def _parsed(path: Path, _modified: int, _size: int) -> Any:
    if path.is_relative_to(conf_dir()) or path.is_relative_to(recipes_dir()):
        return yaml.load(path.read_bytes(), Loader=_Own) or {}
    from omegaconf import OmegaConf  # a job's own process does not need it

    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


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
