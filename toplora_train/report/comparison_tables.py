"""The tables of a comparison, for the terminal, Markdown, HTML and LaTeX alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toplora_train.evaluation.paired import LEVEL
from toplora_train.report import numbers
from toplora_train.report.comparison import overall
from toplora_train.report.held_out import VALIDATION_LOSS


@dataclass(frozen=True)
class Cell:
    """A cell's text, and the number that it is sorted by, if it is one."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """A titled table; the first column names the rows."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """By column, whether it holds numbers."""
        return [
            any(cell.number is not None for cell in column)
            for column in zip(*self.rows, strict=True)
        ]

    def without(self, *optional: str) -> Table:
        """The table without those of the columns ``optional`` that are empty in every row."""
        kept = [
            index
            for index, heading in enumerate(self.headings)
            if heading not in optional or any(row[index].text for row in self.rows)
        ]
        rows = [[row[index] for index in kept] for row in self.rows]
        return Table(self.title, [self.headings[index] for index in kept], rows)


def comparison_tables(document: Mapping[str, Any]) -> list[Table]:
    """All tables: leaderboard, costs, differences (by task too), learning rates, missing runs."""
    rates = document["learning_rates"]
    tables = [leaderboard(document), costs(document), differences(document), by_task(document)]
    if rates:
        tables.append(learning_rate_table(rates))
    tables += [adapters(document), unfinished(document)]
    return [table for table in tables if table.rows]


def leaderboard(document: Mapping[str, Any]) -> Table:
    """Scores by method, best first."""
    tasks = document["tasks"]
    headings = [
        task if how["kind"] == "generate" else f"{task} ({how['kind']})"
        for task, how in tasks.items()
    ]
    grouped = any(method["group"] for method in document["methods"])
    rows = []
    for method in document["methods"]:
        average = "" if method["average"] is None else numbers.percent(method["average"])
        if method["deviation"] is not None:
            average += f" \N{PLUS-MINUS SIGN} {100 * method['deviation']:.1f}"
        if method["average_ci95"] is not None:
            average += f" ({numbers.percent_interval(method['average_ci95'])})"
        scores = [
            Cell(numbers.percent(method["tasks"][task]), method["tasks"][task]) for task in tasks
        ]
        rows.append(
            [
                Cell(method["name"]),
                Cell(average, method["average"]),
                *([Cell(method["group"])] if grouped else []),
                *scores,
                Cell(str(len(method["seeds"])), len(method["seeds"])),
                Cell(numbers.count(method["trainable_parameters"]), method["trainable_parameters"]),
                _times(method["relative_step"]),
            ]
        )
    group = ["group"] if grouped else []
    head = ["method", "average", *group, *headings, "seeds", "parameters", RELATIVE]
    return Table("Leaderboard", head, rows).without(RELATIVE)


def costs(document: Mapping[str, Any]) -> Table:
    """Costs by method, in the leaderboard's order."""
    head = ["method", "parameters", "step time", RELATIVE, "peak memory"]
    head += ["adapter file", "training", "evaluation", "loss on general text"]
    rows = [
        [
            Cell(method["name"]),
            _cell(method["trainable_parameters"], numbers.count),
            _cell(method["step_seconds"], _step),
            _times(method["relative_step"]),
            _cell(method["peak_memory_bytes"], numbers.memory),
            _cell(method["adapter_bytes"], numbers.memory),
            _cell(method["seconds"], numbers.readable_seconds),
            _cell(method["evaluation_seconds"], numbers.readable_seconds),
            _cell(method["forgetting"], "{:+.4f}".format),
        ]
        for method in document["methods"]
    ]
    title = f"Cost, step times relative to {document['reference']}"
    return Table(title, head, rows).without(*head[2:])


def differences(document: Mapping[str, Any], *, significant_only: bool = False) -> Table:
    """The pairs of methods on average, or on the only task."""
    gain = f"{100 * document['gain']:g}"
    head = [*DIFFERENCE[:-1], f"seeds for {gain} {'point' if gain == '1' else 'points'}", "verdict"]
    rows, title = [], "Differences"
    for one in document["comparisons"]:
        found = overall(one)
        if found is None:
            continue
        title = "Differences on average" if found[0] == "average" else f"Differences on {found[0]}"
        if not significant_only or found[1]["p_adjusted"] < LEVEL:
            *cells, verdict = _difference(found[1])
            rows.append([Cell(_pair(one)), *cells, _seeds(found[1]), verdict])
    return Table(title, head, rows)


def by_task(document: Mapping[str, Any]) -> Table:
    """The pairs of methods on each of several tasks."""
    rows = [
        [Cell(_pair(one)), Cell(task), *_difference(found)]
        for one in document["comparisons"]
        if len(one["tasks"]) > 1
        for task, found in one["tasks"].items()
    ]
    return Table("Differences by task", [DIFFERENCE[0], "task", *DIFFERENCE[1:]], rows)


def learning_rate_table(rates: Mapping[str, Any]) -> Table:
    """Held-out scores by adapter and learning rate."""
    of_loss = rates["metric"] == VALIDATION_LOSS
    shown = (lambda value: f"{value:.4f}") if of_loss else numbers.percent
    rows = [
        [
            Cell(name),
            Cell(numbers.rate(point["rate"]), point["rate"]),
            Cell(shown(point["mean"]), point["mean"]),
            Cell(str(len(point["values"])), len(point["values"])),
            Cell(
                "best"
                if point["rate"] == curve["best"]
                else "within 1 SE"
                if point["rate"] in curve["near"]
                else ""
            ),
        ]
        for name, curve in rates["curves"].items()
        for point in curve["points"]
    ]
    return Table(
        "Learning rates", ["method", "rate", f"held-out {rates['metric']}", "seeds", ""], rows
    )


def adapters(document: Mapping[str, Any]) -> Table:
    """The angles between the adapters' updates, as means over the layers."""
    rows = []
    for pair in document.get("adapters", ()):
        by_kind: dict[str, list[Mapping[str, Any]]] = {}
        for module in pair["modules"]:
            by_kind.setdefault(module["module"].rpartition(".")[2], []).append(module)
        for kind, modules in by_kind.items():
            angles = [
                [sum(angle) / len(angle) for angle in zip(*ends, strict=True)]
                for ends in (
                    [(min(one[side]), max(one[side])) for one in modules]
                    for side in ("outputs", "inputs")
                )
            ]
            overlaps = [
                sum(one[key] for one in modules) / len(modules) for key in ("overlap", "chance")
            ]
            rows.append(
                [
                    Cell(_pair(pair)),
                    Cell(kind),
                    Cell(str(len(modules)), len(modules)),
                    *(Cell(f"{value:.3f}", value) for value in overlaps),
                    *(
                        Cell(f"{low:.1f}\N{DEGREE SIGN} to {high:.1f}\N{DEGREE SIGN}", low)
                        for low, high in angles
                    ),
                ]
            )
    head = ["pair", "module", "layers", "overlap", "by chance", "angles of outputs"]
    return Table("Adapters: principal angles of the updates", [*head, "angles of inputs"], rows)


def unfinished(document: Mapping[str, Any]) -> Table:
    """The runs that are not completed or no longer count, with the reason."""
    rows = [
        [Cell(one[key]) for key in ("name", "state", "reason")] for one in document["unfinished"]
    ]
    return Table("Not compared", ["run", "state", "reason"], rows).without("reason")


RELATIVE = "relative step"
DIFFERENCE = ("pair", "points", "95 % interval", "p", "p (Holm)", "verdict")


def _pair(one: Mapping[str, Any]) -> str:
    return f"{one['second']} vs {one['first']}"


def _difference(found: Mapping[str, Any]) -> list[Cell]:
    low, high = found["ci95"]
    return [
        Cell(numbers.points(found["value"]), found["value"]),
        Cell(f"{numbers.points(low)} to {numbers.points(high)}", low),
        Cell(f"{found['p']:.2g}", found["p"]),
        Cell(f"{found['p_adjusted']:.2g}", found["p_adjusted"]),
        Cell(found["verdict"]),
    ]


def _seeds(found: Mapping[str, Any]) -> Cell:
    if found["seed_variance"] is None:
        return Cell("?")
    return Cell(str(found["seeds_needed"] or "too few rows"), found["seeds_needed"])


def _times(ratio: float | None) -> Cell:
    return _cell(ratio, lambda value: f"\N{MULTIPLICATION SIGN} {value:.2f}")


def _step(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _cell(value: float | None, text: Any) -> Cell:
    return Cell("") if value is None else Cell(text(value), value)


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
