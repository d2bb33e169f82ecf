"""The adapter's keys and their types, which ``conf/adapter/NAME.yaml`` defines by its values.

A value must have its default's type; an integer is accepted as a number. If the default is null or
an empty mapping, any value is valid; null is valid nowhere else. Comments in the
file have no effect. :class:`~toplora_train.config.schema.SharedAdapterSettings` adds the keys that
every adapter has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from toplora_train.config.errors import UserError, requirement
from toplora_train.config.locate import options
from toplora_train.config.plugins import plugin
from toplora_train.config.schema import SharedAdapterSettings
from toplora_train.config.suggest import not_found
from toplora_train.config.yaml_file import option_values

Blame = Callable[[str], str]
"""For a dotted key, the file that set it as ``"FILE: "``, or "" for the command line."""


def adapter_defaults(name: Any, own: Sequence[Path] = ()) -> tuple[dict[str, Any], Path]:
    """The adapter's defaults, which are also its schema, and the file that defines them.

    Args:
        name: The adapter's name.
        own: The user's folders; an adapter of the user's own that has been imported needs none.

    Raises:
        UserError: there is no adapter of this name.
    """
    known = {option: file.path for option, file in options("adapter", own).items()}
    module = plugin("adapter", str(name))
    if module is not None:
        known[str(name)] = Path(str(module.__file__)).with_suffix(".yaml")
    if name is None:
        raise UserError(f"adapter.name is not set; known: {', '.join(known)}")
    if name not in known:
        raise UserError(f"adapter.name: {not_found('adapter', str(name), known)}")
    path = known[name]
    values = option_values(path)
    assert isinstance(values, dict)
    settings = {str(key): value for key, value in values.items() if key != "defaults"}
    return settings | asdict(SharedAdapterSettings()), path


def complete_adapter(
    settings: Mapping[str, Any], name: str, *, own: Sequence[Path] = (), blame: Blame = lambda _: ""
) -> dict[str, Any]:
    """The adapter's defaults, overridden by the settings, whose types are validated.

    Unknown keys are ignored: :mod:`toplora_train.config.check` has rejected them before.

    Raises:
        UserError: a value's type differs from its default's.
    """
    defaults, _ = adapter_defaults(name, own)

    def complete(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        completed = dict(known)
        for key, value in given.items():
            dotted, default = f"{prefix}.{key}", known.get(key)
            if isinstance(default, Mapping) and default and isinstance(value, Mapping):
                completed[key] = complete(value, default, dotted)
            elif default is None or default == {}:
                completed[key] = value
            else:
                # PEFT reads a string in place of a list as a pattern.
                kind: Any = list | str if isinstance(default, list) else type(default)
                try:
                    completed[key] = TypeAdapter(kind).validate_python(value, strict=True)
                except ValidationError as error:
                    must = requirement(error.errors()[0])
                    where = f"{blame(dotted)}{dotted}"
                    raise UserError(f"{where} must be {must}, not {shown(value)}") from error
        return completed

    start = settings.get("start_from")
    if start is not None and (not isinstance(start, str) or not start.strip()):
        raise UserError(
            f"{blame('adapter.start_from')}adapter.start_from must be a run, a folder or a hub id, "
            f"not {shown(start)}"
        )
    return complete(settings, defaults, "adapter")


def shown(value: Any) -> str:
    """A value as it would be typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)
