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
class RunInput:
    """One thing that a run reads: the model, or a source of rows.

    ``place`` is where it lies or will lie, ``url`` where it comes from, ``size`` its bytes and
    ``rows`` their number; None is not known.
    """

    use: str
    name: str
    at_hand: bool
    place: str | None = None
    url: str | None = None
    size: int | None = None
    licence: str | None = None
    gated: bool | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Parameters:
    """The model: where its shape is from, its parameters, and per kind of module the trained ones.

    ``fit`` says what a budget came to, ``start`` which adapter this one starts from, ``comparison``
    what other adapters would cost.
    """

    model: str
    base: int
    trainable: Mapping[str, int]
    fit: str | None = None
    start: str | None = None
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Tokens:
    """The training rows as tokens; ``total`` and ``supervised`` are those of the whole run.

    ``source`` says whether they were cached; ``example`` is one training row as (token's text,
    whether it is learned).
    """

    total: int
    supervised: int
    longest: int
    padding_fraction: float
    dropped_rows: int
    truncated_rows: int
    example: Sequence[tuple[str, bool]]
    source: str = ""


@dataclass(frozen=True)
class DeviceMemory:
    """What a device needs in one setting: bytes by purpose while it trains, and to evaluate.

    ``refusal`` says why the run cannot be had in that setting.
    """

    setting: str
    parts: Mapping[str, int]
    evaluation: int
    refusal: str | None = None

    @property
    def training(self) -> int:
        """All of the parts."""
        return sum(self.parts.values())

    @property
    def most(self) -> int:
        """What it needs to come to the end."""
        return max(self.training, self.evaluation)


@dataclass(frozen=True)
class Work:
    """The matrix products of a run and the memory that it takes, on a device.

    ``flops_per_second`` is the most that the device can do, by ``speed_from``; ``utilisation`` the
    share of it that a run may hope for. ``capacity`` is the memory of a device in bytes. ``bound``
    says on which assumption the numbers are upper bounds; None where the rows were counted.
    """

    device: str
    flops: float
    flops_per_second: float
    speed_from: str
    memory: Sequence[DeviceMemory]
    capacity: float | None = None
    utilisation: float | None = None
    bound: str | None = None
    command: str | None = None
    too_large: str | None = None


@dataclass(frozen=True)
class Plan:
    """A run before its first step; what is None is not known, and ``unknown`` says until when.

    ``rows`` are those that are trained on, ``tests`` the rows of each task.
    """

    config: Mapping[str, Any]
    inputs: Sequence[RunInput]
    rows: int | None
    validation_rows: int
    steps: int | None
    tests: Mapping[str, int | None]
    parameters: Parameters | None = None
    tokens: Tokens | None = None
    work: Work | None = None
    unknown: Sequence[str] = ()


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan: configuration, inputs, parameters, work, memory, an example with its mask."""
    console.print(
        Panel(_configuration(plan.config), title="resolved configuration", title_align="left")
    )
    _show_inputs(plan.inputs, console)
    if plan.parameters is not None:
        _show_line(f"trainable parameters on {plan.parameters.model}", console)
        console.print(_parameters(plan.parameters))
        if plan.parameters.fit is not None:
            console.print(plan.parameters.fit, highlight=False)
        if plan.parameters.start is not None:
            console.print(plan.parameters.start, highlight=False)
        if plan.parameters.comparison is not None:
            console.print(_comparison(plan.parameters.comparison))
    console.print(_amounts(plan))
    if plan.work is not None:
        _show_memory(plan.work, console)
    if plan.tokens is not None:
        console.print(
            Panel(
                Group(render(plan.tokens.example), Text(_LEGEND, style="dim")),
                title="the first training row, token by token",
                title_align="left",
            )
        )
    for line in plan.unknown:
        console.print(line, highlight=False, soft_wrap=True)
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
    left_out = ("plan", "plan_for", "prefetch", "command")
    shown = {key: value for key, value in config.items() if key not in left_out}
    return Syntax(yaml.safe_dump(plain_json(shown), sort_keys=False), "yaml", word_wrap=True)


def _show_inputs(inputs: Sequence[RunInput], console: Console) -> None:
    """A line each, never broken within a path."""
    here = [one for one in inputs if one.at_hand]
    missing = [one for one in inputs if not one.at_hand]
    if here:
        console.print("At hand:", style="bold")
    for one in here:
        _show_line(f"  {one.use}: {one.name}, {one.place or 'in the cache of the hub'}", console)
    if missing:
        console.print("To be fetched by the run, or before it by prefetch=true:", style="bold")
    for one in missing:
        _show_line(f"  {one.use}: {one.name}; {_facts(one)}", console)


def _facts(one: RunInput) -> str:
    rows = [] if one.rows is None else [f"{one.rows:,} rows"]
    size = "size not known" if one.size is None else readable_bytes(one.size)
    gated = {
        True: [f"gated: accept it at {one.url}"],
        False: ["not gated"],
        None: [] if one.use != "model" else ["gated or not: not known"],
    }[one.gated]
    return ", ".join([*rows, size, f"licence {one.licence or 'not known'}", *gated])


def _show_line(line: str, console: Console) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _parameters(parameters: Parameters) -> Table:
    table = Table()
    table.add_column("module")
    table.add_column("parameters", justify="right")
    for module, count in parameters.trainable.items():
        table.add_row(module, f"{count:,}")
    total = sum(parameters.trainable.values())
    table.add_section()
    table.add_row(f"all, {total / parameters.base:.3%} of the base", f"{total:,}")
    table.add_row("base model (frozen)", f"{parameters.base:,}")
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


def _amounts(plan: Plan) -> Table:
    table = Table(title="work", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("amount", justify="right")
    table.add_row("training rows", _known(plan.rows))
    if plan.validation_rows:
        table.add_row("rows held out for validation", f"{plan.validation_rows:,}")
    if plan.tokens is not None:
        for name, count in {
            "dropped (too long)": plan.tokens.dropped_rows,
            "truncated": plan.tokens.truncated_rows,
        }.items():
            if count:
                table.add_row(f"rows {name}", f"{count:,}")
    table.add_row("optimizer steps", _known(plan.steps))
    if plan.tokens is not None:
        _add_tokens(table, plan.tokens)
    if plan.work is not None:
        _add_products(table, plan.work)
    for name, rows in plan.tests.items():
        table.add_row(f"test rows of {name}", _known(rows))
    return table


def _known(count: int | None) -> str:
    return "not known" if count is None else f"{count:,}"


def _add_tokens(table: Table, tokens: Tokens) -> None:
    table.add_row("tokens", f"{tokens.total:,}")
    if tokens.source:
        table.add_row("token ids", tokens.source)
    share = tokens.supervised / tokens.total
    table.add_row("of them learned", f"{tokens.supervised:,} ({share:.1%})")
    table.add_row("padding", f"{tokens.padding_fraction:.1%}")
    table.add_row("longest row", f"{tokens.longest:,} tokens")


def _add_products(table: Table, work: Work) -> None:
    """The time of the products alone: no run is faster, but with fewer tokens than the bound's."""
    most = "" if work.bound is None else ", at most"
    table.add_row(f"matrix products{most}", f"{work.flops / 1e12:,.3g} TFLOP")
    seconds = work.flops / work.flops_per_second
    what = "time, at least" if work.bound is None else "time of these products"
    speed = f"{work.flops_per_second / 1e12:,.3g} TFLOP/s, {work.speed_from}"
    table.add_row(f"{what} (at {speed})", readable_seconds(seconds))
    if work.utilisation is not None:
        table.add_row(
            f"at {100 * work.utilisation:.0f} % of that speed, as assumed of a good run",
            readable_seconds(seconds / work.utilisation),
        )


def _show_memory(work: Work, console: Console) -> None:
    _show_line(f"memory of a device, from shapes: {work.device}", console)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    possible = [column for column in work.memory if column.refusal is None]
    table.add_column("what", no_wrap=True)
    for column in possible:
        table.add_column(column.setting, justify="right", no_wrap=True)
    for part in possible[0].parts:
        table.add_row(part, *(readable_bytes(column.parts[part]) for column in possible))
    table.add_section()
    table.add_row("training", *(readable_bytes(column.training) for column in possible))
    table.add_row(
        "evaluation, at least", *(readable_bytes(column.evaluation) for column in possible)
    )
    if work.capacity is not None:
        capacity = work.capacity
        table.add_row(
            f"of {readable_bytes(capacity)}",
            *("enough" if column.most <= capacity else "too little" for column in possible),
        )
    console.print(table)
    for column in work.memory:
        if column.refusal is not None:
            _show_line(f"- {column.setting}: {column.refusal}", console)
    if work.bound is not None:
        _show_line(f"Work and memory are upper bounds: {work.bound}.", console)
    if work.too_large is not None:
        _show_line(work.too_large, console)
    if work.command is not None:
        _show_line(f"On 8 devices: {work.command}", console)


def readable_bytes(count: float) -> str:
    """A number of bytes as people say it: ``512 B``, ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
