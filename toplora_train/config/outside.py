"""Option files from outside the package (``--config-dir``): they configure the run, not Hydra.

Hydra instantiates whatever a ``_target_`` in its own node names, so a file that sets ``hydra`` is a
program. On the command line, ``hydra.*`` is the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from toplora_train.config.errors import UserError
from toplora_train.config.locate import groups, readable
from toplora_train.config.reading import parse_yaml
from toplora_train.config.yaml_file import read_yaml

_HYDRA = re.compile(r"(^|[\s/@.:])hydra($|[\s/@.:])")


def validate_outside(folder: Path) -> None:
    """Check a folder's option files, and those that they include, before Hydra reads them.

    Raises:
        UserError: A file is not readable YAML of bounded size, sets ``hydra``, or includes itself.
    """
    found = {path for group in groups() for path in (folder / group).rglob("*.yaml")}
    waiting = sorted(found | {*(folder / "hydra").rglob("*.yaml")})
    includes: dict[Path, list[Path]] = {}
    while waiting:
        path = waiting.pop()
        if path in includes:
            continue
        try:
            content = parse_yaml(text := read_yaml(path))
        except UserError as error:
            if not isinstance(error.__cause__, yaml.YAMLError):
                raise
            includes[path] = []  # invalid YAML sets nothing; it is reported if it is chosen
            continue
        except ValueError as error:
            raise UserError(f"{readable(path)}: not valid YAML ({error})") from error
        if content is not None and not isinstance(content, Mapping):
            raise UserError(f"{readable(path)}: must be a mapping of keys to values")
        entries = content.get("defaults") if isinstance(content, Mapping) else None
        if not (entries is None or isinstance(entries, list)) or any(
            not isinstance(entry, str | Mapping) for entry in entries or ()
        ):
            raise UserError(f"{readable(path)}: defaults must be a list of options")
        if (
            path.is_relative_to(folder / "hydra")
            or (isinstance(content, Mapping) and "hydra" in content)
            or any(_HYDRA.search(word) for word in (_package(text), *_words(entries)))
        ):
            raise UserError(
                f"{readable(path)}: an option file must not set hydra; give hydra.* on the command "
                "line"
            )
        includes[path] = _included(path, folder, entries)
        waiting += includes[path]
    for path in includes:
        _validate_finite(path, includes)


def _package(text: str) -> str:
    headers = [line for line in text.splitlines() if re.match(r"#\s*@package", line)]
    return headers[0].partition("@package")[2].strip() if headers else ""


def _words(entries: Any) -> Sequence[str]:
    """The keys and values of a defaults list."""
    words: list[str] = []
    for entry in entries if isinstance(entries, list) else []:
        pairs = entry.items() if isinstance(entry, Mapping) else [(entry, "")]
        words += [str(word) for pair in pairs for word in pair]
    return words


def _included(path: Path, folder: Path, entries: Any) -> list[Path]:
    """The folder's own files that a defaults list includes, relative to the group of ``path``."""
    found: list[Path] = []
    for entry in entries if isinstance(entries, list) else []:
        for key, value in entry.items() if isinstance(entry, Mapping) else [("", entry)]:
            where = str(key).removeprefix("override ").strip().partition("@")[0]
            for option in value if isinstance(value, list) else [value]:
                plain = str(option).partition("@")[0].removesuffix(".yaml")
                name = f"{where}/{plain}" if where else plain
                start = folder if name.startswith("/") else path.parent
                file = start / f"{name.strip('/')}.yaml"
                found += [file] if file.exists() else []
    return found


def _validate_finite(path: Path, includes: Mapping[Path, Sequence[Path]]) -> None:
    seen: set[Path] = set()
    waiting = list(includes[path])
    while waiting:
        one = waiting.pop()
        if one == path:
            raise UserError(f"{readable(path)}: its defaults include the file itself")
        if one not in seen:
            seen.add(one)
            waiting.extend(includes[one])
