"""Prompt templates: text with a row's columns in braces, ``Question: {question}``.

A template has only ``{column}`` placeholders; literal braces are doubled, as in ``str.format``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter

PROMPT_FIELDS = ("instruction", "input")
"""The fields a row keeps; a template can name them whatever the columns are called."""

_NOT_EXPANDED = re.compile(r"\\[nt](?!abla|eq|ext|heta|imes)")  # LaTeX's are meant


def columns(template: str) -> tuple[str, ...]:
    """The columns that a template names, in their order.

    Raises:
        ValueError: It is malformed.
    """
    return tuple(dict.fromkeys(name for _, name in _parts(template) if name is not None))


def prompt_template(template: str) -> str:
    """Validate a prompt template.

    A bare name stands for a function in a module of the user's own (``PROMPTS`` of
    :mod:`toplora_train.data.prompts`); :mod:`toplora_train.config.kinds` refuses it without one.

    Raises:
        ValueError: It is malformed, or names no column, so that all rows would share one prompt; or
            it has a line break or tab as the two characters that a shell's quotes leave of it.
    """
    if (found := _NOT_EXPANDED.search(template)) is not None:
        raise ValueError(
            f"must have a line break or tab itself, not the two characters {found[0]}; in a shell "
            'write $\'KEY="{question}\\nAnswer:"\', in YAML "{question}\\nAnswer:"'
        )
    if not columns(template) and not template.isidentifier():
        raise ValueError("must be a string that names at least one column, such as {question}")
    return template


def fill(template: str, values: Mapping[str, str]) -> str:
    """The text of a template. A column that is not in ``values`` stays in braces."""
    return "".join(
        text + ("" if name is None else values.get(name, f"{{{name}}}"))
        for text, name in _parts(template)
    )


def fill_partly(template: str, values: Mapping[str, str]) -> str:
    """The template with some columns filled in; the others can be filled in later."""
    return "".join(
        escape(text)
        + ("" if name is None else escape(values[name]) if name in values else f"{{{name}}}")
        for text, name in _parts(template)
    )


def over_fields(template: str, names: Mapping[str, str]) -> str:
    """The template over the row's own fields where ``names`` says which columns these are.

    ``Q: {question}`` with ``{instruction: question}`` is ``Q: {instruction}``, so templates over
    differently named columns can be compared.
    """
    ours = {names[field]: field for field in PROMPT_FIELDS if field in names}
    return "".join(
        escape(text)
        + ("" if name is None else f"{{{name if name in names else ours.get(name, name)}}}")
        for text, name in _parts(template)
    )


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Literal text and the column after it; None after the last text."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:
        raise ValueError(
            "must be a string with columns as {column} and literal braces as {{ and }}"
        ) from None
    if any(
        name is not None and (not name.strip() or form or cast) for _, name, form, cast in parsed
    ):
        raise ValueError(
            "must be a string with columns as {column}, without a format or conversion; literal "
            "braces are {{ and }}"
        )
    return [(text, name) for text, name, _, _ in parsed]


def escape(text: str) -> str:
    """The template whose text is ``text``."""
    return text.replace("{", "{{").replace("}", "}}")
