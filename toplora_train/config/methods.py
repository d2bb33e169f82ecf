"""The names of the answering methods and of the formats of rows: each is a module in a folder.

The folder is listed, not imported, so that a configuration is validated without torch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

HEADS = ("classify", "regress")
"""Methods that train and use a head; all others use a language model."""

_PACKAGE = Path(__file__).parent.parent


@cache
def format_names() -> tuple[str, ...]:
    """The formats of rows that have a module: the values of ``dataset.format``."""
    return tuple(sorted(path.stem for path in (_PACKAGE / "data" / "formats").glob("[a-z]*.py")))


def format_name(value: str) -> str:
    """Validate ``dataset.format``.

    Raises:
        ValueError: there is no such format.
    """
    return _one_of(value, format_names())


@cache
def method_names() -> tuple[str, ...]:
    """All methods, the default ``generate`` first."""
    found = {path.stem for path in (_PACKAGE / "evaluation" / "methods").glob("[a-z]*.py")} - {
        "base",
        "generate",
    }
    return ("generate", *sorted(found))


def language_methods() -> tuple[str, ...]:
    """The methods for language models, the values of ``evaluation.multiple_choice``."""
    return tuple(name for name in method_names() if name not in HEADS)


def method_name(value: str) -> str:
    """Validate a task's ``kind``.

    Raises:
        ValueError: there is no such method.
    """
    return _one_of(value, method_names())


def language_method(value: str) -> str:
    """Validate ``evaluation.multiple_choice``.

    Raises:
        ValueError: there is no such method, or it needs a head.
    """
    return _one_of(value, language_methods())


def _one_of(value: str, names: tuple[str, ...]) -> str:
    if value not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return value
