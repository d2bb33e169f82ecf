"""The charts of comparisons as SVG text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from toplora_train.report.costs import mark_front
from toplora_train.report.numbers import rate, shortened

TUNED = "#2f7fd1"
_COLORS = (TUNED, "#d98e2b", "#3fa46a", "#b45bc2", "#c0483c", "#5f8a8b", "#8d99a6")
_INK = "#010203"  # placeholder, replaced by the page's text colour
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


def pareto_chart(methods: Sequence[Mapping[str, Any]], cost: str, label: str) -> str:
    """Plot the methods' scores against a cost, those on the Pareto front filled and joined.

    The points are numbered in the order given, and the names are listed beside the chart.

    Args:
        methods: ``methods`` of a comparison, with an average score and the cost.
        cost: The key of the cost.
        label: The cost in words.
    """
    front = [one for one, on in zip(methods, mark_front(methods, cost), strict=True) if on]
    front.sort(key=lambda method: method[cost])
    with rc_context(_STYLE):
        figure = _figure(4)
        axes = figure.subplots()
        axes.step(
            [method[cost] for method in front],
            [100 * method["average"] for method in front],
            where="post",
            color=TUNED,
            alpha=0.4,
        )
        for number, method in enumerate(methods, start=1):
            place, score = method[cost], 100 * method["average"]
            if method["average_ci95"] is not None:
                low, high = (100 * bound for bound in method["average_ci95"])
                axes.plot([place] * 2, [low, high], color=_INK, alpha=0.25, linewidth=1)
            filled = TUNED if method in front else "none"
            axes.plot(place, score, "o", color=TUNED, markerfacecolor=filled, markersize=7)
            left = number % 2 == 0  # and below: numbers of similar methods do not cover each other
            axes.annotate(
                f"{number}",
                (place, score),
                xytext=(-6, -10) if left else (6, 4),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=9,
            )
        _list_beside(axes, [f"{n}  {one['name']}" for n, one in enumerate(methods, start=1)])
        axes.set_xlabel(label, parse_math=False)
        axes.set_ylabel("average score (%), with 95 % interval")
        axes.margins(x=0.1)
        axes.xaxis.set_major_formatter("{x:,g}")
        _light_grid(axes, "both")
        return _svg(figure, f"Score against {cost.replace('_', ' ')}")


def rate_chart(rates: Mapping[str, Any]) -> str:
    """Plot each adapter's held-out score by learning rate, its runs as dots and the best filled.

    Args:
        rates: ``learning_rates`` of a comparison.
    """
    with rc_context(_STYLE):
        figure = _figure(3.6)
        axes = figure.subplots()
        for index, (name, curve) in enumerate(rates["curves"].items()):
            color = _COLORS[index % len(_COLORS)]
            grid = [point["rate"] for point in curve["points"]]
            means = [point["mean"] for point in curve["points"]]
            axes.plot(grid, means, "o-", color=color, markerfacecolor="none", label=name)
            best = grid.index(curve["best"])
            axes.plot(grid[best], means[best], "o", color=color)
            for point in curve["points"]:
                runs = point["values"]
                axes.plot([point["rate"]] * len(runs), runs, ".", color=color, alpha=0.5)
        axes.set_xscale("log")
        every = sorted({p["rate"] for curve in rates["curves"].values() for p in curve["points"]})
        axes.set_xticks(every, [rate(one) for one in every])
        axes.minorticks_off()
        axes.set_xlabel("learning rate")
        axes.set_ylabel(f"held-out {rates['metric']}")
        _list_beside(axes, list(rates["curves"]), axes.get_legend_handles_labels()[0])
        _light_grid(axes, "y")
        return _svg(figure, "Held-out score by learning rate")


def _figure(height: float) -> Figure:
    """A figure with room for names to the right of the axes."""
    return Figure(figsize=(8, height), layout=ConstrainedLayoutEngine(rect=(0, 0, 0.68, 1)))


def _list_beside(axes: Axes, names: Sequence[str], handles: Sequence[Any] = ()) -> None:
    """List names to the right of the axes, which long names leave as they are."""
    lines = ["\n".join(wrap(shortened(name), 34, break_long_words=False)) for name in names]
    legend = axes.legend(
        handles or [Line2D([], [], linestyle="none") for _ in names],
        lines,
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        fontsize=9,
        handlelength=None if handles else 0,
        handletextpad=None if handles else 0,
    )
    legend.set_in_layout(False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _light_grid(axes: Axes, axis: Any) -> None:
    axes.grid(axis=axis, color=_INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
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
