"""What ``plan=true`` shows on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from toplora_train.report.json_file import plain_json
from toplora_train.report.numbers import readable_seconds


@dataclass(frozen=True)
class Alternative:
    """What an adapter costs on this model: at a rank, and where a budget leads.

    ``parameters`` at the rank; ``fitted_rank`` and ``fitted_parameters`` for the budget, and
    ``miss`` how far off it they are, as a share of it. ``refusal`` says why a number is not there.
    """

    name: str
    parameters: int | None
    fitted_rank: str = ""
    fitted_parameters: int | None = None
    miss: float = 0.0
    refusal: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Every adapter at the same rank and at the same budget, both in words."""

    rank: str
    budget: str
    lines: Sequence[Alternative]


@dataclass(frozen=True)
class Plan:
    """A run before its first step.

    ``trainable`` counts parameters per kind of module, ``memory`` bytes per purpose, ``tests`` rows
    per task; ``tokens`` and ``supervised_tokens`` are those of the whole run; ``example`` is one
    training row as (token's text, whether it is learned). ``flops`` are those of all matrix
    products, ``flops_per_second`` the most that the devices can do. ``fit`` says what a budget came
    to, ``start`` which adapter this one starts from, ``comparison`` what other adapters would cost,
    and ``tokens_from`` whether the rows' tokens were cached.
    """

    config: Mapping[str, Any]
    model: str
    base_parameters: int
    trainable: Mapping[str, int]
    rows: int
    validation_rows: int
    dropped_rows: int
    truncated_rows: int
    steps: int
    tokens: int
    supervised_tokens: int
    padding_fraction: float
    longest: int
    memory: Mapping[str, int]
    tests: Mapping[str, int]
    example: Sequence[tuple[str, bool]]
    flops: float
    flops_per_second: float
    fit: str | None = None
    comparison: Comparison | None = None
    tokens_from: str = ""
    start: str | None = None


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan: configuration, parameters, work, memory, and an example with its mask."""
    console.print(
        Panel(_configuration(plan.config), title="resolved configuration", title_align="left")
    )
    console.print(_parameters(plan))
    if plan.fit is not None:
        console.print(plan.fit, highlight=False)
    if plan.start is not None:
        console.print(plan.start, highlight=False)
    if plan.comparison is not None:
        console.print(_comparison(plan.comparison))
    console.print(_work(plan))
    console.print(_memory(plan.memory))
    console.print(
        Panel(
            Group(render(plan.example), Text(_LEGEND, style="dim")),
            title="the first training row, token by token",
            title_align="left",
        )
    )
    console.print("This was the plan; nothing was trained. Leave out plan=true to run it.")


_LEGEND = "\n[learned] in brackets; every other token is context only. | parts tokens."


def render(example: Sequence[tuple[str, bool]]) -> Text:
    """Tokens parted by ``|``; learned ones green, in brackets, so that a log shows them as well."""
    text = Text()
    inside = False
    for index, (token, learned) in enumerate(example):
        if learned and not inside:
            text.append("[", style="bold green")
            inside = True
        elif not learned and inside:
            text.append("]", style="bold green")
            inside = False
        elif index:
            text.append("|", style="dim")
        text.append(token.replace("\n", "⏎\n"), style="green" if learned else "")
    if inside:
        text.append("]", style="bold green")
    return text


def _configuration(config: Mapping[str, Any]) -> RenderableType:
    shown = {key: value for key, value in config.items() if key not in ("plan", "command")}
    return Syntax(yaml.safe_dump(plain_json(shown), sort_keys=False), "yaml", word_wrap=True)


def _parameters(plan: Plan) -> Table:
    table = Table(title=f"trainable parameters on {plan.model}", title_justify="left")
    table.add_column("module")
    table.add_column("parameters", justify="right")
    for module, count in plan.trainable.items():
        table.add_row(module, f"{count:,}")
    total = sum(plan.trainable.values())
    table.add_section()
    table.add_row(f"all, {total / plan.base_parameters:.3%} of the base", f"{total:,}")
    table.add_row("base model (frozen)", f"{plan.base_parameters:,}")
    return table


def _comparison(comparison: Comparison) -> RenderableType:
    title = f"adapters on the same modules, and at the same budget ({comparison.budget})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("adapter", no_wrap=True)
    table.add_column(comparison.rank, justify="right", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("off by", justify="right", no_wrap=True)
    for line in comparison.lines:
        fitted = line.fitted_parameters
        table.add_row(
            line.name,
            "-" if line.parameters is None else f"{line.parameters:,}",
            line.fitted_rank or "-",
            "-" if fitted is None else f"{fitted:,}",
            "-" if fitted is None else f"{line.miss:+.1%}",
        )
    refusals = [f"{line.name}: {line.refusal}" for line in comparison.lines if line.refusal]
    return Group(table, *(Text(f"- {refusal}", style="dim") for refusal in refusals))


def _work(plan: Plan) -> Table:
    table = Table(title="work", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("amount", justify="right")
    left_out = {
        "dropped (too long)": plan.dropped_rows,
        "truncated": plan.truncated_rows,
        "held out for validation": plan.validation_rows,
    }
    table.add_row("training rows", f"{plan.rows:,}")
    for name, count in left_out.items():
        if count:
            table.add_row(f"rows {name}", f"{count:,}")
    table.add_row("optimizer steps", f"{plan.steps:,}")
    table.add_row("tokens", f"{plan.tokens:,}")
    if plan.tokens_from:
        table.add_row("token ids", plan.tokens_from)
    table.add_row(
        "of them learned",
        f"{plan.supervised_tokens:,} ({plan.supervised_tokens / plan.tokens:.1%})",
    )
    table.add_row("padding", f"{plan.padding_fraction:.1%}")
    table.add_row("longest row", f"{plan.longest:,} tokens")
    table.add_row("matrix products", f"{plan.flops / 1e12:,.3g} TFLOP")
    table.add_row(
        f"time, at least (at {plan.flops_per_second / 1e12:,.2g} TFLOP/s, measured now)",
        readable_seconds(plan.flops / plan.flops_per_second),
    )
    for name, rows in plan.tests.items():
        table.add_row(f"test rows of {name}", f"{rows:,}")
    return table


def _memory(memory: Mapping[str, int]) -> Table:
    table = Table(title="memory of a process, from shapes", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("amount", justify="right")
    for name, count in memory.items():
        table.add_row(name, readable_bytes(count))
    table.add_section()
    table.add_row("together", readable_bytes(sum(memory.values())))
    return table


def readable_bytes(count: float) -> str:
    """A number of bytes as people say it: ``512 B``, ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
