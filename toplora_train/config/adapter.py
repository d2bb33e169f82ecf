"""The adapter's keys: which exist, and of what kind, is said by ``conf/adapter/NAME.yaml``.

:class:`~toplora_train.config.schema.SharedAdapterSettings` adds those that every adapter has.

The default's kind is the rule: a whole number, a number (a whole one will do), true or false, a
text, a list, a group of keys. A default of null, or of an empty group, takes anything. Null itself
is taken where it is the default or where the key's comment mentions it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.config.schema import SharedAdapterSettings
from toplora_train.config.suggest import hint, nearest_name

Blame = Callable[[str], str]
"""For a dotted key, the file that set it as ``"FILE: "``, or "" for the command line."""


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
    own = {str(key): value for key, value in values.items() if key != "defaults"}
    return own | asdict(SharedAdapterSettings()), path


def complete_adapter(
    settings: Mapping[str, Any], name: str, *, blame: Blame = lambda _: ""
) -> dict[str, Any]:
    """The settings over the adapter's defaults, each of the default's kind.

    Unknown keys are not looked at: :mod:`toplora_train.config.check` has refused them by then.

    Raises:
        UserError: a value is of another kind.
    """
    defaults, path = adapter_defaults(name)
    source = path.read_text(encoding="utf-8")

    def complete(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        completed = dict(known)
        for key, value in given.items():
            dotted, default = f"{prefix}.{key}", known.get(key)
            if isinstance(default, Mapping) and default and isinstance(value, Mapping):
                completed[key] = complete(value, default, dotted)
            elif (
                default is None or default == {} or (value is None and _takes_null(dotted, source))
            ):
                completed[key] = value
            else:
                kind, fits = _fits(value, default)
                if not fits:
                    raise UserError(f"{blame(dotted)}{dotted} must be {kind}, not {shown(value)}")
                completed[key] = float(value) if isinstance(default, float) else value
        return completed

    start = settings.get("start_from")
    if start is not None and (not isinstance(start, str) or not start.strip()):
        raise UserError(
            f"{blame('adapter.start_from')}adapter.start_from must be a run, a folder or a hub id, "
            f"not {shown(start)}"
        )
    return complete(settings, defaults, "adapter")


def _fits(value: Any, default: Any) -> tuple[str, bool]:
    """The default's kind in words, and whether the value is of it."""
    is_truth = isinstance(value, bool)
    if isinstance(default, bool):
        return "true or false", is_truth
    if isinstance(default, int):
        return "a whole number", isinstance(value, int) and not is_truth
    if isinstance(default, float):
        return "a number", isinstance(value, int | float) and not is_truth
    if isinstance(default, str):
        return "a text", isinstance(value, str)
    if isinstance(default, list):
        return "a list", isinstance(value, list | str)  # PEFT reads a text as a pattern
    return "a group of keys", isinstance(value, Mapping)


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
