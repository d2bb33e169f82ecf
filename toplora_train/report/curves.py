"""The training curves of ``report.html``: what ``metrics.jsonl`` holds, by step and by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

MOST_POINTS = 5000  # of a curve; a run that logged more is thinned
MOST_ROWS = 100  # of the table beside the curves
SMOOTHED_OVER = 20  # the smoothing window is this part of the curve
# The charts: title, and the metric and name of each line. The loss's unit is put in where it is {}.
CHARTS = (
    ("loss per {}", (("loss", "training"), ("validation_loss", "validation"))),
    ("learning rate", (("lr", ""),)),
    ("gradient norm", (("grad_norm", ""),)),
    ("tokens per second", (("tokens_per_second", ""),)),
    ("memory", (("peak_memory_bytes", "peak"), ("gpu_memory_bytes", "reserved"))),
    (
        "size of the update by module",
        (("update_norm_largest", "largest"), ("update_norm_smallest", "smallest")),
    ),
    ("norm of the adapter", (("adapter_norm", ""),)),
    (
        "effective rank of the updates",
        (("effective_rank", "mean"), ("effective_rank_smallest", "smallest")),
    ),
    ("GPU utilization", (("gpu_utilization", ""),)),
)


def training_curves(metrics: Rows, unit: str) -> dict[str, Any] | None:
    """The charts of a run, for the page's script; None if no step was logged.

    Args:
        metrics: The rows of ``metrics.jsonl``.
        unit: The unit that the loss is averaged over.

    Returns:
        ``step`` and ``time`` (the x axes), ``time_unit``, ``charts`` (each with its ``lines``),
        ``marks`` (resumes and loss spikes, at a row) and ``logged`` (the rows before thinning).
    """
    if not metrics:
        return None
    loss = smoothed([row["loss"] for row in metrics])
    kept = thinned(metrics, MOST_POINTS)
    rows = [metrics[place] for place in kept]
    seconds = [row["seconds"] for row in rows]
    divisor, time_unit = _time_unit(max((one for one in seconds if one is not None), default=0))
    charts = []
    for title, metrics_of in CHARTS:
        lines = [
            {"name": name, "kind": _kind(key), "values": [_short(row.get(key)) for row in rows]}
            for key, name in metrics_of
            if any(row.get(key) is not None for row in rows)
        ]
        if metrics_of[0][0] == "loss" and lines:
            values = [_short(loss[at]) for at in kept]
            lines.insert(1, {"name": "smoothed", "kind": "main", "values": values})
        if title == "memory":
            title = f"memory ({_in_binary_units(lines)})"
        if lines:
            charts.append({"title": title.format(unit), "lines": lines})
    return {
        "step": [row["step"] for row in rows],
        "time": [_short(one, divisor) for one in seconds],
        "time_unit": time_unit,
        "charts": charts,
        "marks": [mark for at, row in enumerate(rows) if (mark := _mark(at, row))],
        "logged": len(metrics),
    }


def curve_table(metrics: Rows) -> dict[str, Any]:
    """What the curves draw as a table: ``keys``, and at most a hundred ``rows``, marked ones first.

    Texts, such as the name of the layer with the largest update, are in ``metrics.csv`` only.
    """
    keys = list(
        dict.fromkeys(
            k for row in metrics for k, value in row.items() if not isinstance(value, str)
        )
    )
    return {"keys": keys, "rows": [metrics[place] for place in thinned(metrics, MOST_ROWS)]}


def smoothed(values: Sequence[float | None]) -> list[float | None]:
    """The exponential moving average over a twentieth of the curve, without bias at its start.

    NaN (None) is left out of the average, and stays a gap.
    """
    decay = 1 - 1 / max(2.0, len(values) / SMOOTHED_OVER)
    total = weight = 0.0
    means: list[float | None] = []
    for value in values:
        if value is None:
            means.append(None)
            continue
        total, weight = decay * total + value, decay * weight + 1
        means.append(total / weight)
    return means


def thinned(metrics: Rows, most: int) -> list[int]:
    """At most ``most`` row numbers: first, last, resumes, spikes, validations, others evenly.

    Marked rows alone may be more than that; they are then thinned evenly too.
    """
    count = len(metrics)
    if count <= most:
        return list(range(count))
    marked: Sequence[int] = [
        place
        for place, row in enumerate(metrics)
        if place in (0, count - 1) or row.get("validation_loss") is not None or _mark(place, row)
    ]
    marked = spread(marked, most)
    others = spread(range(count), most - len(marked))
    return sorted({*marked, *others})


def spread(places: Sequence[int], most: int) -> Sequence[int]:
    """At most ``most`` of the places, evenly spaced."""
    if len(places) <= most:
        return places
    return [places[number * len(places) // most] for number in range(most)]


def _mark(at: int, row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row.get("resumed_after") is not None:
        return {"at": at, "kind": "resumed", "text": f"resumed after step {row['resumed_after']}"}
    if row.get("loss_spikes"):
        return {"at": at, "kind": "spike", "text": "loss spike"}
    return None


def _kind(key: str) -> str:
    """How a metric's line is drawn: thin under its smoothed line, with points, or plain."""
    return {"loss": "raw", "validation_loss": "points"}.get(key, "main")


def _time_unit(longest: float) -> tuple[float, str]:
    return (1, "s") if longest < 300 else (60, "min") if longest < 7200 else (3600, "h")


def _in_binary_units(lines: Sequence[dict[str, Any]]) -> str:
    """Convert bytes in place to the unit returned, GiB or MiB."""
    largest = max((v for line in lines for v in line["values"] if v is not None), default=0)
    size, unit = (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
    for line in lines:
        line["values"] = [_short(value, size) for value in line["values"]]
    return unit


def _short(value: float | None, divisor: float = 1) -> float | None:
    """As many digits as a chart can show."""
    return None if value is None else float(f"{value / divisor:.6g}")
