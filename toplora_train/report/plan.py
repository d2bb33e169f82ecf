"""The terminal output of ``plan=true``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from toplora_train.config.json_file import plain_json
from toplora_train.config.printable import printable
from toplora_train.report.display import say
from toplora_train.report.escape import PlainTable
from toplora_train.report.numbers import readable_seconds


@dataclass(frozen=True)
class Alternative:
    """The size of an adapter on this model, at a given rank and for a parameter budget.

    ``parameters`` at the rank; ``fitted_rank`` and ``fitted_parameters`` for the budget, and
    ``miss`` their relative deviation from it. ``refusal`` says why a number is missing.
    """

    name: str
    parameters: int | None
    fitted_rank: str = ""
    fitted_parameters: int | None = None
    miss: float = 0.0
    refusal: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Every adapter at the same rank and at the same budget; both are descriptions."""

    rank: str
    budget: str
    lines: Sequence[Alternative]


@dataclass(frozen=True)
class RunInput:
    """An input of a run: the model or a data source.

    ``place`` is its path, also if not downloaded yet, ``url`` where it comes from, ``size`` in
    bytes, ``rows`` the number of rows; None if unknown.
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
    """The model: where its shapes come from, and base and trainable parameters by kind of module.

    ``fit`` is the outcome of a parameter budget, ``start`` the adapter this one starts from,
    ``comparison`` the sizes of other adapters.
    """

    model: str
    base: int
    trainable: Mapping[str, int]
    fit: str | None = None
    start: str | None = None
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Tokens:
    """Tokens of the training data; ``total`` and ``supervised`` count all epochs of the run.

    ``source`` says whether they were cached; ``examples`` are the first training rows as (token
    text, whether the loss is computed on it).
    """

    total: int
    supervised: int
    longest: int
    padding_fraction: float
    dropped_rows: int
    truncated_rows: int
    examples: Sequence[Sequence[tuple[str, bool]]]
    source: str = ""


@dataclass(frozen=True)
class DeviceMemory:
    """A device's memory in one setting: bytes by purpose during training, and for evaluation.

    ``refusal`` says why the run is not possible in this setting.
    """

    setting: str
    parts: Mapping[str, int]
    evaluation: int
    refusal: str | None = None

    @property
    def training(self) -> int:
        """Total bytes during training."""
        return sum(self.parts.values())

    @property
    def most(self) -> int:
        """The peak over training and evaluation."""
        return max(self.training, self.evaluation)


@dataclass(frozen=True)
class Work:
    """The FLOPs and the memory of a run on a device.

    ``flops_per_second`` is the device's peak throughput, according to ``speed_from``;
    ``utilisation`` the fraction of it that an efficient run reaches. ``capacity`` is a device's
    memory in bytes. ``bound`` is the assumption under which the numbers are upper bounds; None if
    the tokens were counted. ``unknown`` says why there is no memory.
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
    unknown: str | None = None

    @property
    def seconds(self) -> float:
        """The time of the FLOPs at peak."""
        return self.flops / self.flops_per_second


@dataclass(frozen=True)
class Plan:
    """A run before its first step; None means unknown, and ``unknown`` explains why.

    ``rows`` counts the training rows, ``tests`` the rows of each task.
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
    """Print configuration, inputs, parameters, compute, memory and an example with loss mask."""
    console.print(
        Panel(_configuration(plan.config), title="resolved configuration", title_align="left")
    )
    _show_inputs(plan.inputs, console)
    if plan.parameters is not None:
        _show_line(f"trainable parameters on {plan.parameters.model}", console)
        console.print(_parameters(plan.parameters))
        if plan.parameters.fit is not None:
            say(console, plan.parameters.fit)
        if plan.parameters.start is not None:
            say(console, plan.parameters.start)
        if plan.parameters.comparison is not None:
            console.print(_comparison(plan.parameters.comparison))
    console.print(_amounts(plan))
    if plan.work is not None:
        _show_memory(plan.work, console)
    if plan.tokens is not None:
        rows = [render(example) for example in plan.tokens.examples]
        console.print(
            Panel(
                Group(*Text("\n\n").join(rows).split("\n"), Text(_LEGEND, style="dim")),
                title=f"the first {len(rows)} training rows, token by token",
                title_align="left",
            )
        )
    for line in plan.unknown:
        say(console, line)
    console.print("This was only the plan; nothing was trained. Remove plan=true to run it.")


_LEGEND = "\nThe loss is computed on tokens in [brackets]; others are context. | separates tokens."


def render(example: Sequence[tuple[str, bool]]) -> Text:
    """Tokens separated by ``|``; those with a loss are green and, for logs, in brackets."""
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
        text.append(printable(token).replace("\n", "⏎\n"), style="green" if learned else "")
    if inside:
        text.append("]", style="bold green")
    return text


def _configuration(config: Mapping[str, Any]) -> RenderableType:
    left_out = ("plan", "plan_for", "prefetch", "command")
    shown = {key: value for key, value in config.items() if key not in left_out}
    return Syntax(yaml.safe_dump(plain_json(shown), sort_keys=False), "yaml", word_wrap=True)


def _show_inputs(inputs: Sequence[RunInput], console: Console) -> None:
    """One line per input; paths are not broken."""
    local = [one for one in inputs if one.at_hand]
    missing = [one for one in inputs if not one.at_hand]
    if local:
        console.print("Available locally:", style="bold")
    for one in local:
        _show_line(f"  {one.use}: {one.name}, {one.place or 'in the Hugging Face cache'}", console)
    if missing:
        console.print("To be downloaded by the run, or first with prefetch=true:", style="bold")
    for one in missing:
        _show_line(f"  {one.use}: {one.name}; {_facts(one)}", console)


def _facts(one: RunInput) -> str:
    rows = [] if one.rows is None else [f"{one.rows:,} rows"]
    size = "size unknown" if one.size is None else readable_bytes(one.size)
    gated = {
        True: [f"gated: request access at {one.url}"],
        False: ["not gated"],
        None: [] if one.use != "model" else ["gating unknown"],
    }[one.gated]
    return ", ".join([*rows, size, f"licence {one.licence or 'unknown'}", *gated])


def _show_line(line: str, console: Console) -> None:
    console.print(printable(line), soft_wrap=True, highlight=False, markup=False)


def _parameters(parameters: Parameters) -> PlainTable:
    table = PlainTable()
    table.add_column("module")
    table.add_column("parameters", justify="right")
    for module, count in parameters.trainable.items():
        table.add_row(module, f"{count:,}")
    total = sum(parameters.trainable.values())
    table.add_section()
    table.add_row(f"total, {total / parameters.base:.3%} of the base model", f"{total:,}")
    table.add_row("base model (frozen)", f"{parameters.base:,}")
    return table


def _comparison(comparison: Comparison) -> RenderableType:
    title = f"adapters on the same modules, and at the same budget ({comparison.budget})"
    table = PlainTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
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
    return Group(table, *(Text(f"- {printable(refusal)}", style="dim") for refusal in refusals))


def _amounts(plan: Plan) -> PlainTable:
    table = PlainTable(title="data and compute", title_justify="left", show_header=False)
    table.add_column("quantity")
    table.add_column("amount", justify="right")
    table.add_row("training rows", _count_or_unknown(plan.rows))
    if plan.validation_rows:
        table.add_row("rows held out for validation", f"{plan.validation_rows:,}")
    if plan.tokens is not None:
        for name, count in {
            "dropped (too long)": plan.tokens.dropped_rows,
            "truncated": plan.tokens.truncated_rows,
        }.items():
            if count:
                table.add_row(f"rows {name}", f"{count:,}")
    table.add_row("optimizer steps", _count_or_unknown(plan.steps))
    if plan.tokens is not None:
        _add_tokens(table, plan.tokens)
    if plan.work is not None:
        _add_flops(table, plan.work)
    for name, rows in plan.tests.items():
        table.add_row(f"test rows of {name}", _count_or_unknown(rows))
    return table


def _count_or_unknown(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _add_tokens(table: PlainTable, tokens: Tokens) -> None:
    table.add_row("tokens", f"{tokens.total:,}")
    if tokens.source:
        table.add_row("token ids", tokens.source)
    share = tokens.supervised / tokens.total
    table.add_row("supervised tokens", f"{tokens.supervised:,} ({share:.1%})")
    table.add_row("padding", f"{tokens.padding_fraction:.1%}")
    table.add_row("longest row", f"{tokens.longest:,} tokens")


def _add_flops(table: PlainTable, work: Work) -> None:
    """FLOPs and their time at peak: a lower bound on the run's time if the tokens were counted."""
    most = "" if work.bound is None else ", at most"
    table.add_row(f"matrix products{most}", f"{work.flops / 1e12:,.3g} TFLOP")
    label = "time, at least" if work.bound is None else "time for these products"
    speed = f"{work.flops_per_second / 1e12:,.3g} TFLOP/s, {work.speed_from}"
    table.add_row(f"{label} (at {speed})", readable_seconds(work.seconds))
    if work.utilisation is not None:
        table.add_row(
            f"at {100 * work.utilisation:.0f} % utilisation, typical of an efficient run",
            readable_seconds(work.seconds / work.utilisation),
        )


def _show_memory(work: Work, console: Console) -> None:
    if work.unknown is not None:
        _show_line(f"memory is unknown: a step cannot be simulated ({work.unknown})", console)
        return
    _show_line(f"memory per device, of a simulated step: {work.device}", console)
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    possible = [column for column in work.memory if column.refusal is None]
    table.add_column("purpose", no_wrap=True)
    for column in possible:
        table.add_column(column.setting, justify="right", no_wrap=True)
    for part in possible[0].parts:
        sizes = [column.parts[part] for column in possible]
        if any(sizes):
            table.add_row(part, *map(readable_bytes, sizes))
    table.add_section()
    table.add_row("training", *(readable_bytes(column.training) for column in possible))
    table.add_row(
        "evaluation, at least", *(readable_bytes(column.evaluation) for column in possible)
    )
    if work.capacity is not None:
        capacity = work.capacity
        table.add_row(
            f"of {readable_bytes(capacity)}",
            *("fits" if column.most <= capacity else "does not fit" for column in possible),
        )
    console.print(table)
    for column in work.memory:
        if column.refusal is not None:
            _show_line(f"- {column.setting}: {column.refusal}", console)
    if work.bound is not None:
        _show_line(f"FLOPs and memory are upper bounds: {work.bound}.", console)
    if work.too_large is not None:
        _show_line(work.too_large, console)
    if work.command is not None:
        _show_line(f"On several devices: {work.command}", console)


def readable_bytes(count: float) -> str:
    """Return a readable number of bytes: ``512 B``, ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
