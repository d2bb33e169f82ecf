"""The names of the ways in which a model answers: each is a module of ``evaluation/methods``.

The folder is listed, not imported, so that a configuration is checked without torch.
"""

from __future__ import annotations

from pathlib import Path

HEADS = ("classify", "regress")
"""Methods that need a head, which a run trains; all others ask a language model."""

_FOLDER = Path(__file__).parent.parent / "evaluation" / "methods"


def method_names() -> tuple[str, ...]:
    """Every method, ``generate`` first, as it is the default."""
    found = {path.stem for path in _FOLDER.glob("[a-z]*.py")} - {"base", "generate"}
    return ("generate", *sorted(found))


def language_methods() -> tuple[str, ...]:
    """The methods for language models, which ``evaluation.multiple_choice`` chooses from."""
    return tuple(name for name in method_names() if name not in HEADS)


def method_name(value: str) -> str:
    """Check a task's ``kind``.

    Raises:
        ValueError: there is no such method.
    """
    return _one_of(value, method_names())


def language_method(value: str) -> str:
    """Check ``evaluation.multiple_choice``.

    Raises:
        ValueError: there is no such method, or it needs a head.
    """
    return _one_of(value, language_methods())


def _one_of(value: str, names: tuple[str, ...]) -> str:
    if value not in names:
        raise ValueError(f"must be one of {', '.join(names)}, not {value!r}")
    return value
