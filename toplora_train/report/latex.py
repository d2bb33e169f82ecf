"""Tables as LaTeX, in plain ``tabular`` that needs no package."""

from __future__ import annotations

from collections.abc import Sequence

from toplora_train.report.comparison_tables import Table

ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def latex_tables(tables: Sequence[Table]) -> str:
    """The tables, one after the other, each with its title as a comment."""
    return "\n".join(map(_tabular, tables))


def latex_text(text: str) -> str:
    """``text`` with every character that LaTeX would interpret escaped."""
    return "".join(ESCAPES.get(character, character) for character in " ".join(text.split()))


def _tabular(table: Table) -> str:
    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    rows = [list(table.headings), *([cell.text for cell in row] for row in table.rows)]
    lines = [" & ".join(map(latex_text, row)) + r" \\" for row in rows]
    lines.insert(1, r"\hline")
    body = "\n".join(lines)
    title = " ".join(table.title.split())
    return f"% {title}\n\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"
