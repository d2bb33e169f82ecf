"""The levels that set keys: the command line, then the recipe, then the groups' options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from toplora_train.config.adapter import shown
from toplora_train.config.errors import UserError
from toplora_train.config.locate import OptionFile, groups, readable
from toplora_train.config.origin import package_of
from toplora_train.config.yaml_file import option_values

COMMAND_LINE = "the command line"
MISSING = "???"
_LISTS = ("task",)  # groups from which a run can take several options


@dataclass(frozen=True)
class Level:
    """The keys that one file or the command line sets.

    Attributes:
        name: The file's path as the user would type it, or "the command line".
        keys: Maps dotted keys to values as written; interpolations are not resolved.
    """

    name: str
    keys: Mapping[str, Any]


def levels(files: Sequence[OptionFile], overrides: Sequence[str]) -> list[Level]:
    """All levels of a run, the highest first.

    Args:
        files: The chosen option files, the recipe first.
        overrides: The command line's ``key=value`` words.

    Raises:
        UserError: A group that takes one option is given a list, or a key is given twice with
            different values.
    """
    return [Level(COMMAND_LINE, _typed(overrides)), *(read_level(file) for file in files)]


def read_level(file: OptionFile) -> Level:
    """The keys that an option file sets itself, without those of its ``defaults``.

    Raises:
        UserError: Its defaults choose several options of a group that takes one.
    """
    content = option_values(file.path)
    assert isinstance(content, dict)
    place, package = readable(file.path), package_of(file)
    _validate_single_options(content.pop("defaults", None) or [], place)
    return Level(place, dict(_flat(content, f"{package}." if package else "")))


def validate_complete(found: Sequence[Level]) -> None:
    """Reject a mandatory value (``???``) that no higher level sets.

    Hydra would use the default of a lower level instead.

    Raises:
        UserError: Names the file and the key.
    """
    given: set[str] = set()
    for level in found:
        for key, value in level.keys.items():
            if value == MISSING and key not in given:
                raise UserError(f"{level.name}: {key} is not set; give {key}=...")
        given |= level.keys.keys()


def typed_keys(found: Sequence[Level]) -> set[str]:
    """The keys that the command line sets to a value other than null."""
    return {
        key
        for level in found
        if level.name == COMMAND_LINE
        for key, value in level.keys.items()
        if value is not None
    }


def _typed(overrides: Sequence[str]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_delete() or override.is_sweep_override():
            continue
        name, value = override.key_or_group, override.value()
        if name in words and words[name] != value:
            raise UserError(
                f"{name} is given twice: {shown(words[name])} and {shown(value)}; give it once"
            )
        words[name] = value
        if isinstance(value, dict):
            keys |= _flat(value, f"{name}.")
        elif name not in groups():
            keys[name] = value
        elif isinstance(value, list):
            _validate_single(name, value)
    return keys


def _validate_single_options(defaults: Sequence[Any], place: str) -> None:
    for entry in defaults:
        for key, chosen in entry.items() if isinstance(entry, dict) else ():
            group = str(key).removeprefix("override ").strip(" /").partition("@")[0]
            if isinstance(chosen, list):
                _validate_single(group, chosen, f"{place}: ")


def _validate_single(group: str, chosen: Sequence[Any], place: str = "") -> None:
    """Hydra merges the options of a list, so that only the last one would take effect."""
    if group not in _LISTS:
        options = ",".join(str(one) for one in chosen)
        raise UserError(
            f"{place}{group}=[{options}] is a list, but a run has one {group}; "
            f"choose one, or run each of them with -m {group}={options}"
        )


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
