"""The adapter's keys: which exist, and of what kind, is said by ``conf/adapter/NAME.yaml``.

The default's kind is the rule: a whole number, a number (a whole one will do), true or false, a
text, a list, a group of keys. A default of null, or of an empty group, takes anything. Null itself
is taken where it is the default or where the key's comment mentions it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.config.suggest import hint, nearest_name


def adapter_defaults(name: Any) -> tuple[dict[str, Any], Path]:
    """The defaults of the adapter ``name``, which are its schema, and their file.

    Raises:
        UserError: the package has no such adapter.
    """
    known = options("adapter")
    if name is None:
        raise UserError(f"adapter.name is not set; known: {', '.join(known)}")
    if name not in known:
        guess = nearest_name(str(name), list(known))
        raise UserError(
            f"adapter.name is '{name}', which is no adapter{hint(guess)} known: {', '.join(known)}"
        )
    path = known[name].path
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "defaults"}, path


def complete_adapter(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings over the adapter's defaults, each of the default's kind.

    Unknown keys are not looked at: :mod:`toplora_train.config.check` has refused them by then.
    """
    defaults, path = adapter_defaults(name)
    return _complete(settings, defaults, "adapter", path.read_text(encoding="utf-8"))


def _complete(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str, source: str
) -> dict[str, Any]:
    completed = dict(defaults)
    for key, value in settings.items():
        dotted = f"{prefix}.{key}"
        default = defaults.get(key)
        if isinstance(default, Mapping) and default and isinstance(value, Mapping):
            completed[key] = _complete(value, default, dotted, source)
        else:
            completed[key] = _of_kind(value, default, dotted, source)
    return completed


def _of_kind(value: Any, default: Any, dotted: str, source: str) -> Any:
    if default is None or default == {}:
        return value
    if value is None and _takes_null(dotted, source):
        return value
    if isinstance(default, bool):
        kind, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, int):
        kind, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        kind, fits = "a number", isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    elif isinstance(default, str):
        kind, fits = "a text", isinstance(value, str)
    elif isinstance(default, list):
        kind, fits = "a list", isinstance(value, list | str)  # PEFT reads a text as a pattern
    else:
        kind, fits = "a group of keys", isinstance(value, Mapping)
    if not fits:
        raise UserError(f"{dotted} must be {kind}, not {shown(value)}")
    return value


def _takes_null(dotted: str, source: str) -> bool:
    key = re.escape(dotted.rpartition(".")[2])
    return re.search(rf"^\s*{key}:[^#\n]*#.*\bnull\b", source, flags=re.MULTILINE) is not None


def shown(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)
