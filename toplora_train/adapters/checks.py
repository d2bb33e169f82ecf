"""Validation of an adapter's settings; messages start with the key, so callers can prefix them.

The functions raise ``TypeError`` for a value of the wrong type, ``ValueError`` for an invalid one;
:func:`toplora_train.adapters.attach.attach_adapter` turns both into ``adapter.<message>``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any


def check_positive_integer(key: str, value: object) -> None:
    """Raise unless the value is 1, 2, 3, ... (``True`` does not count as an integer)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} must be a positive integer, not {value!r}")
    if value < 1:
        raise ValueError(f"{key} must be a positive integer, not {value}")


def check_positive_number(key: str, value: object) -> None:
    """Raise unless the value is a finite positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key} must be a positive number, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key} must be a positive number, not {value}")


def check_probability(key: str, value: object) -> None:
    """Raise unless the value is a number p with 0 <= p < 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key} must be a number from 0 to below 1, not {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{key} must be a number from 0 to below 1, not {value}")


def check_boolean(key: str, value: object) -> None:
    """Raise unless the value is a boolean."""
    if not isinstance(value, bool):
        raise TypeError(f"{key} must be true or false, not {value!r}")


def check_choice(key: str, value: object, options: Collection[str]) -> None:
    """Raise unless the value is one of the ``options``."""
    if value not in options:
        raise ValueError(f"{key} must be one of {', '.join(options)}, not {value!r}")


def check_names(key: str, value: object, *, regex: bool = True) -> None:
    """Raise unless the value is None, a list of module names or (if ``regex``) a pattern."""
    kind = "a list of module names" + (" or a regular expression" if regex else "")
    if value is None:
        return
    if isinstance(value, str):
        if not regex:
            raise TypeError(f"{key} must be {kind}, not {value!r}")
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{key} is not a regular expression: {value!r} ({error})") from error
        if not value:
            raise ValueError(f"{key} must be {kind}, not an empty string")
        return
    if not isinstance(value, list | tuple | set | frozenset):
        raise TypeError(f"{key} must be {kind}, not {value!r}")
    if not value:
        raise ValueError(f"{key} must name at least one module, or be null")
    for name in value:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{key} must be {kind}, but it holds {name!r}")


def check_layers(key: str, value: object) -> None:
    """Raise unless the value is None, a layer index (from 0) or a list of them."""
    indices = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if isinstance(value, list | tuple) and not value:
        raise ValueError(f"{key} must name at least one layer, or be null")
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{key} must be a layer index or a list of them, not {value!r}")
        if index < 0:
            raise ValueError(f"{key} must hold layer indices from 0 on, not {index}")


def check_pattern(key: str, value: object, *, integer: bool) -> None:
    """Raise unless the value maps module names (or regexes) to positive numbers."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must map module names to values, not {value!r}")
    for name, entry in value.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{key} must map module names to values, but has the name {name!r}")
        check = check_positive_integer if integer else check_positive_number
        check(f"{key}.{name}", entry)


def check_keys(settings: Mapping[str, Any], known: Collection[str], *, prefix: str = "") -> None:
    """Raise for a setting that the adapter does not have."""
    for key in settings:
        if key not in known:
            raise ValueError(
                f"{prefix}{key} is not a setting of this adapter; it has {', '.join(sorted(known))}"
            )
