"""A comparison on the terminal, as Markdown and as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toplora_train.report.json_file import write_json_atomically, write_text_atomically
from toplora_train.report.numbers import count, percent, percent_interval, points, readable_seconds
from toplora_train.report.pages import templates


def write_comparison(folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``comparison.json``, ``comparison.md`` and ``comparison.html``."""
    for name, escape in (("comparison.md", False), ("comparison.html", True)):
        text = templates(escape=escape).get_template(f"{name}.j2").render(**_content(document))
        write_text_atomically(folder / name, text)
    write_json_atomically(folder / "comparison.json", document)


def show_comparison(document: Mapping[str, Any], console: Console) -> None:
    """Print the leaderboard, the comparisons and the warnings."""
    for title, (head, *rows) in _tables(document).items():
        table = Table(title=title, title_justify="left")
        for index, heading in enumerate(head):
            table.add_column(heading, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for warning in document["warnings"]:
        console.print(Text(warning, "yellow"))


def _content(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"document": document, "tables": _tables(document), "how": HOW}


HOW = (
    "Differences are of the same rows, second minus first, with 95 % bootstrap intervals that draw "
    "questions and, where there are several, seeds. p is McNemar's exact mid-p with one seed each, "
    "the bootstrap's with several, adjusted over the tasks by Holm's method. What a comparison "
    "'could see' is the smallest difference it would find four times in five."
)


def _tables(document: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Title to rows of cells, the first row being the headings."""
    tables = {"Leaderboard": _leaderboard(document)}
    for one in document["comparisons"]:
        tables[f"{one['second']} against {one['first']}"] = _comparison(one)
    return tables


def _leaderboard(document: Mapping[str, Any]) -> list[list[str]]:
    tasks = list(document["tasks"])
    kinds = {task: how["kind"] for task, how in document["tasks"].items()}
    headings = [task if kinds[task] == "generate" else f"{task} ({kinds[task]})" for task in tasks]
    rows = [["method", "average", *headings, "seeds", "parameters", "training"]]
    for method in document["methods"]:
        average = "" if method["average"] is None else percent(method["average"])
        if method["deviation"] is not None:
            average += f" \N{PLUS-MINUS SIGN} {100 * method['deviation']:.1f}"
        elif method["average_ci95"] is not None:
            average += f" ({percent_interval(method['average_ci95'])})"
        rows.append(
            [
                method["name"],
                average,
                *(percent(method["tasks"][task]) for task in tasks),
                str(len(method["seeds"])),
                count(method["trainable_parameters"]),
                readable_seconds(method["seconds"]),
            ]
        )
    return rows


def _comparison(one: Mapping[str, Any]) -> list[list[str]]:
    rows = [["task", "points", "95 % interval", "p", "p over tasks", "verdict"]]
    found = dict(one["tasks"])
    if one["average"] is not None:
        found["average"] = one["average"]
    for task, difference in found.items():
        low, high = difference["ci95"]
        rows.append(
            [
                task,
                points(difference["value"]),
                f"{points(low)} to {points(high)}",
                f"{difference['p']:.2g}",
                f"{difference['p_adjusted']:.2g}" if task in one["tasks"] else "",
                difference["verdict"],
            ]
        )
    rows += [[task, "", "", "", "", "not compared"] for task in one["not_compared"]]
    return rows
