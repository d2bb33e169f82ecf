"""Command-line arguments of the form ``key=value``, for commands that do not use Hydra.

The commands that work on a finished run take only a few keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from toplora_train.config.errors import UserError
from toplora_train.config.suggest import hint, nearest_name

OF_OTHER_TYPES = ("true", "false", "null", "nan", "inf")  # names that Hydra reads as another type


@dataclass(frozen=True)
class Key:
    """A key that a command takes.

    Args:
        name: The part before the ``=``.
        meaning: One line for the help.
        required: Whether it must be given.
        choices: The allowed values; empty allows any.
    """

    name: str
    meaning: str
    required: bool = False
    choices: tuple[str, ...] = ()


def parse_arguments(words: Sequence[str], keys: Sequence[Key], *, command: str) -> dict[str, str]:
    """Parse the arguments into values by key; keys that are not given are absent.

    Args:
        words: The command line after the command's name.
        keys: The keys that exist.
        command: The command's name, for messages.

    Raises:
        UserError: A word is not ``key=value``, a key is unknown, repeated or missing, or a value is
            empty or not one of the choices.
    """
    known = {key.name: key for key in keys}
    given: dict[str, str] = {}
    for word in words:
        name, is_pair, value = word.partition("=")
        if not is_pair:
            raise UserError(
                f"'{word}' is not KEY=VALUE; {command} takes {_list(keys)} (see {command} --help)"
            )
        if name not in known:
            guess = nearest_name(name, list(known))
            raise UserError(f"unknown key '{name}'{hint(guess)} {command} takes {_list(keys)}")
        if name in given:
            raise UserError(f"{name} is given twice: {given[name]} and {value}")
        choices = known[name].choices
        if not value or (choices and value not in choices):
            wanted = f"one of {', '.join(choices)}" if choices else "a value"
            raise UserError(f"{name} must be {wanted}, not '{value}'")
        given[name] = value
    for key in keys:
        if key.required and key.name not in given:
            raise UserError(f"{key.name} is not given: {key.name}={_example(key)}, {key.meaning}")
    return given


def parse_list(value: str) -> list[str]:
    """``[a,b]``, ``a,b`` or ``a`` as a list of strings."""
    inside = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    return [entry.strip() for entry in inside.split(",") if entry.strip()]


def show_usage(command: str, purpose: str, keys: Sequence[Key]) -> str:
    """The help text of a command: purpose, usage and keys."""
    words = " ".join(
        f"{key.name}={_example(key)}" if key.required else f"[{key.name}={_example(key)}]"
        for key in keys
    )
    width = max(len(key.name) for key in keys)
    lines = "\n".join(f"  {key.name:<{width}}  {key.meaning}" for key in keys)
    return f"{purpose}\n\nusage: {command} {words}\n\n{lines}"


def _example(key: Key) -> str:
    return "|".join(key.choices) or key.name.upper()


def _list(keys: Sequence[Key]) -> str:
    return ", ".join(f"{key.name}=" for key in keys)


def quoted(value: object) -> str:
    """A value as Hydra's grammar reads it, in quotation marks if it could be read as another."""
    if value is None or isinstance(value, bool | int | float):
        return {None: "null", True: "true", False: "false"}.get(value, str(value))  # type: ignore[arg-type]
    text = str(value)
    is_name = re.fullmatch(r"[A-Za-z_][\w-]*", text) and text.lower() not in OF_OTHER_TYPES
    if is_name or re.fullmatch(r"[\w./-]*/[\w./-]*|[A-Za-z_]\w*\.\w+", text):  # or a path
        return text
    # A backslash stands for itself but before a quotation mark.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), text) + "'"
