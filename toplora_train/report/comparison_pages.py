"""Render a comparison on the terminal, and as Markdown, HTML, CSV, LaTeX and JSON files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from toplora_train.config.json_file import write_json_atomically, write_text_atomically
from toplora_train.report.charts import pareto_chart, rate_chart
from toplora_train.report.comparison import overall
from toplora_train.report.comparison_csv import comparison_csv
from toplora_train.report.comparison_tables import (
    Table,
    adapters,
    by_task,
    comparison_tables,
    costs,
    differences,
    latex_tables,
    leaderboard,
    learning_rate_table,
    unfinished,
)
from toplora_train.report.numbers import counted, shortened
from toplora_train.report.pages import templates

MOST_PAIRS = 3  # of all pairs, that the terminal shows even if they do not differ

HOW = (
    "Differences are paired by row, second minus first. The 95 % intervals cover variation over "
    "test rows and training seeds: each run's score is one observation, with Student's t for the "
    "small number of seeds. With one seed they cover test rows only and apply to these adapters, "
    "not to the methods; for accuracies p is then McNemar's exact mid-p. p values are adjusted by "
    "Holm's method over all comparisons of the same kind (averages and tasks separately). The "
    "detectable difference is the smallest true difference found with 80 % power; the seeds are "
    "how many each method needs to detect the given difference. Methods that share a letter "
    "(group) do not differ significantly. Step time is the median of a training step; peak memory "
    "on a CPU is that of the whole process."
)


ANGLES = (
    "Principal angles compare the spaces of two updates, from 0 degrees (a shared direction) to "
    "90: of the outputs that they reach and of the inputs that they read, smallest to largest, "
    "means over layers. The overlap is the mean squared cosine of the outputs' angles; by chance "
    "it is the larger rank divided by the width."
)


def write_comparison(folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``comparison.json``, ``.md``, ``.html``, ``.csv`` and ``.tex``."""
    tables = comparison_tables(document)
    runs = [f"{method['name']}: {', '.join(method['runs'])}" for method in document["methods"]]
    notes = [
        HOW,
        *([ANGLES] if document.get("adapters") else []),
        f"Protocol {document['protocol']}, {document['protocol_hash']}.",
        *runs,
    ]
    write_tables(
        folder / "comparison",
        "Comparison of runs",
        tables,
        warnings=document["warnings"],
        notes=notes,
        charts=_charts(document),
    )
    write_text_atomically(folder / "comparison.csv", comparison_csv(document))
    write_json_atomically(folder / "comparison.json", document)


def write_tables(
    path: Path,
    title: str,
    tables: Sequence[Table],
    *,
    warnings: Sequence[str],
    notes: Sequence[str],
    charts: Mapping[str, str],
) -> None:
    """Write tables as Markdown, HTML (with the charts, inline SVG by caption) and LaTeX.

    Args:
        path: The files without their suffix.
        title: The pages' heading.
        tables: What they show.
        warnings: Above the tables.
        notes: Below them.
        charts: SVG by caption, for the HTML page.
    """
    content = {
        "title": title,
        "tables": tables,
        "warnings": warnings,
        "notes": notes,
        "charts": charts,
    }
    for suffix, escape in ((".md", False), (".html", True)):
        template = templates(escape=escape).get_template(f"comparison{suffix}.j2")
        write_text_atomically(path.with_suffix(suffix), template.render(**content))
    write_text_atomically(path.with_suffix(".tex"), latex_tables(tables))


def show_comparison(document: Mapping[str, Any], console: Console) -> None:
    """Print the leaderboard, the costs, the decisive differences and the warnings."""
    names = _screen_names([method["name"] for method in document["methods"]])
    pairs = document["comparisons"]
    decisive_only = document["baseline"] is None and len(pairs) > MOST_PAIRS
    shown = [leaderboard(document), costs(document)]
    shown.append(differences(document, significant_only=decisive_only))
    if len(pairs) == 1:
        shown.append(by_task(document))
    if document["learning_rates"]:
        shown.append(learning_rate_table(document["learning_rates"]))
    shown += [adapters(document), unfinished(document)]
    for table in shown:
        if table.rows:
            show_table(table, console, names)
    if decisive_only:
        console.print(Text(_undecided(document, len(shown[2].rows))))
    show_warnings(document["warnings"], console)


def show_warnings(warnings: Sequence[str], console: Console) -> None:
    """Print warnings; a command is not broken into lines, so that it can be copied."""
    for warning in warnings:
        sentence, *commands = warning.split("\n")
        console.print(Text(sentence, "yellow"))
        for command in commands:
            console.print(Text(f"  {command}"), soft_wrap=True)


def show_table(table: Table, console: Console, names: Mapping[str, str] | None = None) -> None:
    """Print a table; ``names`` are what the methods' names are replaced by."""

    def shown(text: str) -> Text:  # as it is: a setting such as [q,v] is no markup
        for name, short in (names or {}).items():
            text = text.replace(name, short)
        return Text(text)

    title = shown(table.title)
    title.stylize("italic")
    grid = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading, numeric in zip(table.headings, table.numeric, strict=True):
        grid.add_column(shown(heading), justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(shown(cell.text) for cell in row))
    console.print(grid)


def _screen_names(names: Sequence[str]) -> dict[str, str]:
    """Names whose long words are shortened, unless two would become equal."""
    short = [shortened(name) for name in names]
    return dict(zip(names, short if len(set(short)) == len(names) else names, strict=True))


def _undecided(document: Mapping[str, Any], decided: int) -> str:
    """What the table of decisive differences leaves out."""
    every = differences(document).rows
    if not every:
        return ""
    found = [result[1] for one in document["comparisons"] if (result := overall(one))]
    seen = [f"{100 * one['detectable']:.1f}" for one in found]
    least, most = min(seen, key=float), max(seen, key=float)
    return (
        f"{decided} of {counted(len(every), 'pair')} differ"
        f"{'' if decided != 1 else 's'} significantly. The comparisons could see differences of "
        f"{least if least == most else f'{least} to {most}'} points. All pairs and tasks are in "
        "the files; baseline=METHOD compares with one method only."
    )


def _charts(document: Mapping[str, Any]) -> dict[str, str]:
    """The Pareto pictures and the learning-rate curves, by caption."""
    methods = [method for method in document["methods"] if method["average"] is not None]
    found = {}
    if len(methods) > 1:
        found["Score and trainable parameters; methods on the Pareto front are filled"] = (
            pareto_chart(methods, "trainable_parameters", "trainable parameters")
        )
        if all(method["relative_step"] for method in methods):
            found["Score and step time; methods on the Pareto front are filled"] = pareto_chart(
                methods,
                "relative_step",
                f"step time relative to {shortened(document['reference'])}",
            )
    if document["learning_rates"]:
        metric = document["learning_rates"]["metric"]
        found[f"Held-out {metric} by learning rate; the best rate is filled"] = rate_chart(
            document["learning_rates"]
        )
    return found
