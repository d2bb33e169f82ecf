"""Text from outside in Markdown, HTML and on the terminal: one escaping function each.

Names, paths, settings and answers may hold anything. In a report they are text, never markup, and
control characters are shown as escapes (:func:`toplora_train.config.printable.printable`). Charts
show text as it is: ``text.parse_math`` is off.
"""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from toplora_train.config.printable import printable


class PlainTable(Table):
    """A rich table whose cells are text, so that ``[bold]`` is printed and not obeyed."""

    def add_row(self, *cells: Any, **how: Any) -> None:
        """See :meth:`rich.table.Table.add_row`."""
        texts = (Text(printable(one)) if isinstance(one, str) else one for one in cells)
        super().add_row(*texts, **how)


def finalize(value: Any) -> Any:
    """What Jinja does with the value of every expression in a template, before HTML's escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def cell(value: object) -> str:
    """Return ``value`` in one line with Markdown, HTML and formulas escaped."""
    text = printable(" ".join(str(value).split()))
    return re.sub(r"([\\|`*_<>\[\]&$~])", r"\\\1", text)


def fenced(text: str, language: str = "text") -> str:
    """Return ``text`` as a Markdown code block, with a fence longer than any backticks in it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def code(value: object) -> str:
    """Return ``value`` as inline code in Markdown, in one line."""
    text = printable(" ".join(str(value).split()))
    fence = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
