"""Render a comparison on the terminal, as Markdown and as a single HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toplora_train.report.comparison import overall
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
    tables = _tables(document)
    shown = dict(list(tables.items())[: 2 + MOST_ON_SCREEN])
    if len(shown) < len(tables):
        shown = dict(list(tables.items())[:2])
    for title, (head, *rows) in shown.items():
        table = Table(title=title, title_justify="left")
        for index, heading in enumerate(head):
            table.add_column(heading, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    if len(shown) < len(tables):
        console.print(f"{len(tables) - len(shown)} more tables, by task, are in the files.")
    for warning in document["warnings"]:
        console.print(Text(warning, "yellow"))


MOST_ON_SCREEN = 3  # comparisons whose tasks are shown on the terminal


def _content(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"document": document, "tables": _tables(document), "how": HOW}


HOW = (
    "Differences are paired by row, second minus first. The 95 % intervals cover variation over "
    "test rows and training seeds: each run's score is one observation, with Student's t for the "
    "small number of seeds. With one seed they cover test rows only and apply to these adapters, "
    "not to the methods; for accuracies p is then McNemar's exact mid-p. p values are adjusted by "
    "Holm's method over all comparisons of the same kind (averages and tasks separately). The "
    "detectable difference is the smallest true difference found with 80 % power; the seeds are "
    "how many each method needs to detect the given difference."
)


def _tables(document: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Title to rows of cells; the first row holds the headings."""
    tables = {"Leaderboard": _leaderboard(document)}
    compared = [(one, overall(one)) for one in document["comparisons"]]
    decisive = [(one, *found) for one, found in compared if found]
    if decisive:
        gain = f"{100 * document['gain']:g}"
        needed = f"seeds for {gain} {'point' if gain == '1' else 'points'}"
        rows = [[*DIFFERENCE[:-1], needed, DIFFERENCE[-1]]]
        for one, _, found in decisive:
            *cells, verdict = _difference(f"{one['second']} vs {one['first']}", found)
            rows.append([*cells, _seeds(found), verdict])
        title = "On average" if decisive[0][1] == "average" else f"On {decisive[0][1]}"
        tables[title] = rows
    for one, _ in compared:
        if len(one["tasks"]) > 1:
            rows = [_difference(task, found) for task, found in one["tasks"].items()]
            tables[f"{one['second']} vs {one['first']}, by task"] = [list(DIFFERENCE), *rows]
    return tables


def _leaderboard(document: Mapping[str, Any]) -> list[list[str]]:
    tasks = list(document["tasks"])
    kinds = {task: how["kind"] for task, how in document["tasks"].items()}
    headings = [task if kinds[task] == "generate" else f"{task} ({kinds[task]})" for task in tasks]
    grouped = any(method["group"] for method in document["methods"])
    rows = [["method", "average", *headings, "seeds", "parameters", "training"]]
    if grouped:
        rows[0].insert(2, "group")
    for method in document["methods"]:
        average = "" if method["average"] is None else percent(method["average"])
        if method["deviation"] is not None:
            average += f" \N{PLUS-MINUS SIGN} {100 * method['deviation']:.1f}"
        if method["average_ci95"] is not None:
            average += f" ({percent_interval(method['average_ci95'])})"
        rows.append(
            [
                method["name"],
                average,
                *([method["group"]] if grouped else []),
                *(percent(method["tasks"][task]) for task in tasks),
                str(len(method["seeds"])),
                count(method["trainable_parameters"]),
                readable_seconds(method["seconds"]),
            ]
        )
    return rows


DIFFERENCE = ("", "points", "95 % interval", "p", "p (Holm)", "verdict")


def _difference(title: str, found: Mapping[str, Any]) -> list[str]:
    low, high = found["ci95"]
    return [
        title,
        points(found["value"]),
        f"{points(low)} to {points(high)}",
        f"{found['p']:.2g}",
        f"{found['p_adjusted']:.2g}",
        found["verdict"],
    ]


def _seeds(found: Mapping[str, Any]) -> str:
    if found["seed_variance"] is None:
        return "?"
    return str(found["seeds_needed"] or "too few rows")
