"""The report's charts as SVG text: loss curves and scores."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toplora_train.config.printable import printable

TUNED, BASE, MAJORITY = "#2f7fd1", "#8d99a6", "#d98e2b"
# Placeholder colour, replaced by the page's text colour when the chart is inline, or by a grey that
# is legible on white and black when it is a file.
_INK = "#010203"
_FILE_INK = "#808890"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "toplora-train",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a name may hold dollar signs
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def training_chart(metrics: Sequence[Mapping[str, Any]], *, inline: bool) -> str:
    """Plot training loss, validation loss if measured, and learning rate against steps.

    Args:
        metrics: The rows of ``metrics.jsonl``, at least one.
        inline: Whether the chart is embedded in a page rather than written to a file.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        steps = [row["step"] for row in metrics]
        marker = "o" if len(steps) < 3 else ""
        losses = [_loss(row["loss"]) for row in metrics]
        above.plot(steps, losses, color=TUNED, marker=marker, label="training loss")
        measured = [row for row in metrics if row.get("validation_loss") is not None]
        if measured:
            above.plot(
                [row["step"] for row in measured],
                [row["validation_loss"] for row in measured],
                color=MAJORITY,
                marker="o",
                markersize=4,
                label="validation loss",
            )
            above.legend(loc="upper right")
        above.set_ylabel("loss per token")
        _light_grid(above, "y")
        below.plot(steps, [row["lr"] for row in metrics], color=BASE, marker=marker)
        below.set_ylabel("learning rate")
        below.set_ylim(bottom=0)
        below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        below.set_xlabel("step")
        _light_grid(below, "y")
        return _svg(figure, "Training loss and learning rate by step", inline)


def score_chart(tasks: Mapping[str, Mapping[str, Any]], *, inline: bool) -> str:
    """Plot each task's score with its 95 % interval next to the base model and majority baseline.

    Args:
        tasks: ``tasks`` of ``report.json``, at least one.
        inline: Whether the chart is embedded in a page rather than written to a file.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.62 * len(tasks)), layout="constrained")
        axes = figure.subplots()
        for place, task in enumerate(tasks.values()):
            _bar(axes, place - 0.19, task["value"], task["ci95"], TUNED)
            if task["base_value"] is not None:
                _bar(axes, place + 0.19, task["base_value"], task["base_ci95"], BASE)
            majority = 100 * task["majority_value"]
            axes.plot([majority] * 2, [place - 0.4, place + 0.4], color=MAJORITY, linestyle=":")
        axes.set_yticks(range(len(tasks)), list(map(printable, tasks)))
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("score (%), with 95 % interval")
        legend = [("tuned", TUNED, "-", 7.0), ("base model", BASE, "-", 7.0)]
        legend.append(("most frequent answer", MAJORITY, ":", 1.5))
        handles = [
            axes.plot([], [], color=color, linestyle=style, linewidth=width, label=label)[0]
            for label, color, style, width in legend
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        _light_grid(axes, "x")
        return _svg(figure, "Scores by task with 95 % intervals", inline)


def _bar(
    axes: Axes, place: float, value: float, interval: Sequence[float] | None, color: str
) -> None:
    axes.barh(place, 100 * value, height=0.34, color=color)
    if interval is not None:
        low, high = (100 * bound for bound in interval)
        spread = [[max(0.0, 100 * value - low)], [max(0.0, high - 100 * value)]]
        axes.errorbar(100 * value, place, xerr=spread, color=_INK, capsize=3, linewidth=1)


def _loss(value: float | None) -> float:
    """NaN losses are null in JSON; they leave a gap in the curve."""
    return float("nan") if value is None else value


def _light_grid(axes: Axes, axis: Any) -> None:
    axes.grid(axis=axis, color=_INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)


def _svg(figure: Figure, title: str, inline: bool) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    if not inline:
        return text.replace(_INK, _FILE_INK)
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Two charts on one page must not share ids, and a chart scales with the page.
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    size = re.compile(r'<svg (?P<rest>[^>]*?)(?:width|height)="[^"]*" ?(?P<tail>[^>]*)>')
    for _ in range(2):
        text = size.sub(r"<svg \g<rest>\g<tail>>", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
