"""Render a published table with one's own scores, on the terminal and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from toplora_train.config.json_file import write_json_atomically, write_text_atomically
from toplora_train.report.comparison_csv import csv_text
from toplora_train.report.comparison_pages import show_table, show_warnings, write_tables
from toplora_train.report.comparison_tables import Cell, Table
from toplora_train.report.numbers import percent, percent_interval, points

COLUMNS = ("row", "task", "published", "certainty", "value", "low", "high", "difference", "seeds")
HOW = (
    "Intervals are 95 % intervals over test rows and, with several seeds, training seeds; the "
    "published score counts as exact. A row without runs is empty."
)


def published_table(document: Mapping[str, Any]) -> Table:
    """Published score, own score and difference; cells without a run are empty."""
    head = ["row", "task", "published", "certainty", "here", "difference", "seeds"]
    rows = []
    for line in document["lines"]:
        cells = [
            Cell(line["row"]),
            Cell(line["task"]),
            Cell(f"{100 * line['published']:.4g} %", line["published"]),
            Cell(document["certainty"]),
        ]
        if line["value"] is None:
            cells += [Cell(""), Cell(""), Cell("")]
        else:
            low, high = line["difference_ci95"]
            interval = percent_interval(line["ci95"])
            cells += [
                Cell(f"{percent(line['value'])} ({interval})", line["value"]),
                Cell(
                    f"{points(line['difference'])} ({points(low)} to {points(high)})",
                    line["difference"],
                ),
                Cell(str(len(line["seeds"])), len(line["seeds"])),
            ]
        rows.append(cells)
    return Table(document["title"], head, rows)


def write_published(folder: Path, name: str, document: Mapping[str, Any]) -> None:
    """Write ``NAME.json``, ``.md``, ``.html``, ``.csv`` and ``.tex``."""
    table = published_table(document)
    runs = {path: None for line in document["lines"] for path in line["runs"]}
    write_tables(
        folder / name,
        document["title"],
        [table],
        warnings=document["warnings"],
        notes=[_source(document), document["note"], HOW, f"Runs: {', '.join(runs)}"],
        charts={},
    )
    lines = [
        line
        | dict(zip(("low", "high"), line["ci95"] or (None, None), strict=True))
        | {"certainty": document["certainty"], "seeds": " ".join(map(str, line["seeds"]))}
        for line in document["lines"]
    ]
    write_text_atomically(folder / f"{name}.csv", csv_text(COLUMNS, lines))
    write_json_atomically(folder / f"{name}.json", document)


def show_published(document: Mapping[str, Any], console: Console) -> None:
    """Print the table, its source and the warnings."""
    show_table(published_table(document), console)
    console.print(Text(f"{_source(document)} {HOW}"))
    show_warnings(document["warnings"], console)


def _source(document: Mapping[str, Any]) -> str:
    return f"Published: {document['source']} ({document['certainty']}), {document['protocol']}."
