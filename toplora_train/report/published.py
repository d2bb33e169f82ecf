"""Published tables next to one's own runs: ``toplora-report table=NAME``.

A table is one file, ``tables/NAME.yaml``: its title, source, certainty and protocol, and rows of
published scores in the form of a recipe's ``expected``, with the settings that a run must have to
be compared with the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.text import Text

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import write_json_atomically, write_text_atomically
from toplora_train.config.schema import STRICT, ExpectedSettings
from toplora_train.evaluation.paired import interval
from toplora_train.evaluation.row_scores import RowScores, mean_over_tasks
from toplora_train.report.comparison_csv import csv_text
from toplora_train.report.comparison_pages import show_table, show_warnings, write_tables
from toplora_train.report.comparison_tables import Cell, Table
from toplora_train.report.methods import group
from toplora_train.report.numbers import percent, percent_interval, points
from toplora_train.report.pages import PROTOCOLS
from toplora_train.report.runs import Run, task_scores

TABLES = Path(__file__).with_name("tables")


@dataclass(frozen=True, config=STRICT)
class PublishedRow(ExpectedSettings):
    """A row of a published table.

    Attributes:
        name: The row's name.
        model: The base model, ``model.name`` or ``model.path`` of the run.
        settings: Other settings of the run, by dotted key.
    """

    name: str = ""
    model: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)

    def matches(self, run: Run) -> bool:
        """Whether the run has the row's model, adapter, rank, start and settings."""
        own = run.settings
        return (
            self.adapter == own["adapter.name"]
            and self.r in (None, own.get("adapter.r"))
            and self.model in (own.get("model.name"), own.get("model.path"))
            and (self.start is None) == (own.get("adapter.start_from") is None)
            and all(own.get(key) == value for key, value in self.settings.items())
        )


@dataclass(frozen=True, config=STRICT)
class PublishedTable:
    """A published table.

    Attributes:
        title: Its title.
        source: The publication.
        certainty: ``certain`` was read in the publication or its code, ``second-hand`` in a
            summary of it.
        protocol: How its scores were measured.
        tasks: The tasks of its average.
        rows: Its rows.
        note: What its readers should know.
    """

    title: str
    source: str
    certainty: Literal["certain", "second-hand"]
    protocol: str
    tasks: list[str]
    rows: list[PublishedRow]
    note: str = ""


def known_tables() -> list[str]:
    """The names of the tables."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def read_table(name: str) -> PublishedTable:
    """Read a table.

    Raises:
        UserError: There is no table of that name.
    """
    if name not in known_tables():
        raise UserError(f"table={name} is unknown; the tables are {', '.join(known_tables())}")
    values = yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))
    common = {key: values[key] for key in ("source", "protocol")}
    rows = [common | row for row in values["rows"]]
    return TypeAdapter(PublishedTable).validate_python({**values, "rows": rows})


def compare_with_table(table: PublishedTable, runs: Sequence[Run]) -> dict[str, Any]:
    """The table's scores with those of the runs.

    Args:
        table: The table.
        runs: Finished runs; those that match no row are left out with a warning.

    Returns:
        The table's ``title, source, certainty, protocol, note``; ``lines``, one per published
        score: ``row, task`` (or ``average``), ``published``, and ``value, ci95, difference,
        difference_ci95, seeds, runs``, None or empty where no run matches; ``warnings``. Scores are
        fractions.

    Raises:
        UserError: Several methods match a row, or no run matches any.
    """
    used: dict[int, Run] = {}  # evaluations of two archived runs may have one folder
    lines: list[dict[str, Any]] = []
    for row in table.rows:
        matching = [run for run in runs if row.matches(run)]
        by_task = {task: _of_task(row, task, matching) for task in table.tasks}
        for task, published in row.scores.items():
            lines.append(_line(row, task, published, by_task.get(task, [])))
        if row.average is not None:
            lines.append(_average(row, row.average, by_task))
        used |= {id(run): run for found in by_task.values() for run in found}
    if not used:
        names = "; ".join(row.name for row in table.rows)
        raise UserError(
            f"no run has the model, adapter, rank and settings of a row of this table ({names}). "
            + table.note
        )
    return {
        "title": table.title,
        "source": table.source,
        "certainty": table.certainty,
        "protocol": table.protocol,
        "note": table.note,
        "lines": lines,
        "warnings": _warnings(table, list(used.values()), len(runs)),
    }


def _of_task(row: PublishedRow, task: str, runs: Sequence[Run]) -> list[Run]:
    """The runs of the one method that was evaluated on the task, by seed."""
    methods = group([run for run in runs if task in run.report["tasks"]])
    if len(methods) > 1:
        raise UserError(
            f"several methods match '{row.name}' on {task}: "
            f"{', '.join(repr(method.name) for method in methods)}; give the runs of one of them"
        )
    found = sorted(methods[0].runs, key=_seed) if methods else []
    ways = {
        f"{run.report['protocol']}, {of_task['kind']}, {of_task['n']} rows": run.folder
        for run in found
        for of_task in [run.report["tasks"][task]]
    }
    if len(ways) > 1:
        several = "; ".join(f"{way} ({folder})" for way, folder in ways.items())
        raise UserError(
            f"runs of '{row.name}' were evaluated on {task} in different ways: {several}; evaluate "
            "them alike (toplora-eval run=RUN), or give those of one way"
        )
    return found


def _line(
    row: PublishedRow,
    task: str,
    published: float,
    runs: Sequence[Run],
    mean: RowScores | None = None,
) -> dict[str, Any]:
    """A published score beside that of the runs, or their ``mean`` over tasks."""
    line: dict[str, Any] = {"row": row.name, "task": task, "published": published / 100}
    line |= dict.fromkeys(("value", "ci95", "difference", "difference_ci95"))
    if runs:
        own = runs[0].report["tasks"].get(task)
        scores = mean or task_scores(runs, task, own["metric"])
        single = own["ci95"] if len(runs) == 1 and mean is None else None
        bounds = single or interval(scores, range(len(scores.values)))
        value = float(np.mean(scores.values))
        line |= {
            "value": value,
            "ci95": list(bounds),
            "difference": value - published / 100,
            "difference_ci95": [bound - published / 100 for bound in bounds],
        }
    seeds = sorted({_seed(run) for run in runs})
    return line | {"seeds": seeds, "runs": [str(run.folder) for run in runs]}


def _average(
    row: PublishedRow, published: float, by_task: Mapping[str, Sequence[Run]]
) -> dict[str, Any]:
    """The mean over tasks by seed, of the seeds that every task has."""
    seeds = set.intersection(*({_seed(run) for run in runs} for runs in by_task.values()))
    found = {task: [run for run in runs if _seed(run) in seeds] for task, runs in by_task.items()}
    runs = list({id(run): run for of_task in found.values() for run in of_task}.values())
    means = [
        task_scores(of_task, task, of_task[0].report["tasks"][task]["metric"])
        for task, of_task in found.items()
        if of_task
    ]
    return _line(row, "average", published, runs, mean_over_tasks(means) if means else None)


def _seed(run: Run) -> int:
    return int(run.report["seed"])


def _warnings(table: PublishedTable, used: Sequence[Run], given: int) -> list[str]:
    found = []
    protocols = sorted({run.report["protocol"] for run in used})
    if table.protocol in PROTOCOLS and protocols != [table.protocol]:
        found.append(
            f"Published with protocol {table.protocol}, here {', '.join(protocols)}; differences "
            f"may be due to that alone. toplora-eval run=RUN protocol={table.protocol}"
        )
    if len({_seed(run) for run in used}) == 1:
        found.append(
            "One seed here: the intervals cover variation over test rows only. Add seed=1,2,3."
        )
    if any(run.limit is not None for run in used):
        found.append(
            "Some runs were evaluated on the first rows of each task only; for all rows: "
            "toplora-eval run=RUN limit=null name=all"
        )
    if given > len(used):
        found.append(f"{given - len(used)} of {given} runs match no row of the table.")
    return found


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
