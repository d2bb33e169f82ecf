"""Held-out scores by learning rate: each adapter's curve, and its best rate.

The held-out score is the metric that selected the run's epoch (``train.selection``), or else the
validation loss at the end; test rows play no part.

``near`` are the rates whose mean is within one standard error of the best one's: the band of the
one-standard-error rule (Breiman, Friedman, Olshen and Stone, Classification and Regression Trees,
1984), which takes the simplest model in it; here the best rate stays chosen and the band is only
reported. It is no test: all rates of a seed are scored on the same rows, and one outside the band
may be no worse. An accuracy p over n rows has ``sqrt(p (1 - p) / n)``; the mean of k seeds, which
hold out rows of their own, that over ``sqrt(k)``, or ``s / sqrt(k)`` of their deviation s if that
is larger. With one seed other metrics and losses have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from toplora_train.report.numbers import counted, rate
from toplora_train.report.runs import Method, Run, group, settings_of, typed

LOSS = "validation loss"
KEY = "optimizer.lr"
TUNE_MORE = "Tune with three seeds or more (study.tuning_seeds)"


def learning_rates(methods: Sequence[Method]) -> dict[str, Any] | None:
    """The curves of adapters that were trained at several learning rates.

    Returns:
        ``metric``, and by adapter ``curves``: the ``best`` rate, the rates ``near`` it, ``edge`` (a
        rate beyond the best to try next, None if the best one is inside the grid or no better than
        the others) and ``points``, each a ``rate`` with the runs' held-out ``values``, their
        ``mean`` and its standard ``error`` (None where nothing gives one). None if no adapter was
        trained at several rates with held-out rows, or only some have a loss.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    metrics: set[str] = set()
    for method in methods:
        held_out = [_held_out(run) for run in method.runs]
        scored = [found for found in held_out if found is not None]
        metrics |= {metric for metric, _, _ in scored}
        if scored:
            point = {
                "rate": _rate(method.runs[0]),
                "values": [value for _, value, _ in scored],
                "mean": fmean(value for _, value, _ in scored),
                "error": _standard_error(scored),
            }
            curves.setdefault(untuned(method), []).append(point)
    grids = {name: points for name, points in curves.items() if len(points) > 1}
    if not grids or (LOSS in metrics and len(metrics) > 1):
        return None
    metric = metrics.pop() if len(metrics) == 1 else "score"  # tasks have different ones
    return {
        "metric": metric,
        "curves": {name: _curve(points, metric) for name, points in grids.items()},
    }


def at_best_rates(runs: Sequence[Run], tuning: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs without those at a rate that was the best only before more tuning runs were made.

    A study that is continued with more rates or tuning seeds may choose another rate. Runs at the
    earlier one would be a second method, chosen by no rule.

    Args:
        runs: Runs of a study.
        tuning: Those that chose its learning rates; none if nothing was chosen.

    Returns:
        The runs, and a warning if any were left out.
    """
    tried: dict[tuple[object, ...], list[Run]] = {}
    for run in tuning:
        tried.setdefault(_tuned(run), []).append(run)
    best = {}
    for method, own in tried.items():
        found = learning_rates(group(own))
        if found is not None:
            (curve,) = found["curves"].values()
            best[method] = curve["best"]
    settled = {_tuned(run) for run in runs if _rate(run) == best.get(_tuned(run))}
    kept: list[Run] = []
    earlier: list[Run] = []
    for run in runs:
        method = _tuned(run)
        overruled = method in settled and _rate(run) != best[method]
        (earlier if overruled else kept).append(run)
    if not earlier:
        return kept, []
    names = dict.fromkeys(
        f"{run.settings['adapter.name']} at {rate(_rate(run))}" for run in earlier
    )
    return kept, [
        f"Left out: {counted(len(earlier), 'run')} at a learning rate that was the best before "
        f"more tuning runs were made: {', '.join(names)}."
    ]


def untuned(method: Method) -> str:
    """The method's name without its learning rate."""
    return method.name.replace(f" {KEY}={typed(method.runs[0].settings[KEY])}", "")


def best_of(costs: Sequence[Sequence[float]]) -> int:
    """The index of the rate with the lowest mean cost, among those with the most runs.

    A rate at which runs failed is not compared on the others alone.
    """
    most = max(map(len, costs))
    return min(
        (index for index, found in enumerate(costs) if len(found) == most),
        key=lambda index: fmean(costs[index]),
    )


def edge_warnings(rates: Mapping[str, Any] | None, key: str = KEY) -> list[str]:
    """Warn of each adapter whose best rate is the lowest or the highest one tried, or any.

    Args:
        rates: See :func:`learning_rates`.
        key: The setting that lists the rates.
    """
    curves = rates["curves"].items() if rates else ()
    return [
        f"The best rate of {name} lies at the grid's edge ({rate(curve['best'])}); extend the "
        f"grid by {rate(curve['edge'])} ({key})."
        for name, curve in curves
        if curve["edge"] is not None
    ] + [
        f"{name} has the same held-out score at every learning rate, so that none is the best; "
        "hold out more rows, or train for longer."
        for name, curve in curves
        if _is_flat(curve["points"])
    ]


def near_warnings(rates: Mapping[str, Any] | None) -> list[str]:
    """Warn of the adapters whose best rate is no better than others by more than chance.

    Args:
        rates: See :func:`learning_rates`, of tuning runs.
    """
    curves = {
        name: curve
        for name, curve in (rates["curves"] if rates else {}).items()
        if not _is_flat(curve["points"])
    }
    near = [
        f"{name} {rate(curve['best'])} (or {', '.join(map(rate, curve['near']))})"
        for name, curve in curves.items()
        if curve["near"]
    ]
    unknown = [
        name for name, curve in curves.items() if all(p["error"] is None for p in curve["points"])
    ]
    warnings = []
    if near:
        warnings.append(
            "Some best rates may have been chosen by chance; others are within one standard error "
            f"on the held-out rows: {'; '.join(near)}. The verdicts do not include this chance. "
            f"{TUNE_MORE}."
        )
    if rates and unknown:
        warnings.append(
            f"With one tuning seed nothing says how certain the best rates of {', '.join(unknown)} "
            f"by {rates['metric']} are. {TUNE_MORE}."
        )
    return warnings


def _curve(points: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    points = sorted(points, key=lambda point: point["rate"])
    sign = 1 if metric == LOSS else -1
    best = best_of([[sign * value for value in point["values"]] for point in points])
    grid = [point["rate"] for point in points]
    error = points[best]["error"] or 0.0
    near = [
        point["rate"]
        for point in points
        if point is not points[best] and sign * (point["mean"] - points[best]["mean"]) <= error
    ]
    edge = None
    if best == 0 and not _is_flat(points):
        edge = grid[0] ** 2 / grid[1]
    elif best == len(grid) - 1:
        edge = grid[-1] ** 2 / grid[-2]
    return {"best": grid[best], "near": near, "edge": edge, "points": points}


def _is_flat(points: Sequence[Mapping[str, Any]]) -> bool:
    return len({point["mean"] for point in points}) == 1


def _tuned(run: Run) -> tuple[object, ...]:
    """Equal for runs that differ in nothing but rate and seed."""
    return (run.head_of, settings_of(run, but=KEY))


def _rate(run: Run) -> float:
    return float(run.settings[KEY])


def _held_out(run: Run) -> tuple[str, float, int | None] | None:
    """The held-out metric, its value for the adapter that was kept, and of how many rows."""
    train = run.report["train"]
    chosen = train["selection"]
    if chosen is not None:
        value = next(one["value"] for one in chosen["epochs"] if one["step"] == chosen["step"])
        return str(chosen["metric"]), float(value), int(chosen["rows"])
    if train["validation_loss"] is None:
        return None
    return LOSS, float(train["validation_loss"]), None


def _standard_error(scored: Sequence[tuple[str, float, int | None]]) -> float | None:
    """Of the mean over runs: by the rows if each is right or wrong, and by the seeds."""
    values = [value for _, value, _ in scored]
    errors = [
        sqrt(value * (1 - value) / rows)
        for metric, value, rows in scored
        if metric == "accuracy" and rows
    ]
    by_rows = fmean(errors) / sqrt(len(errors)) if errors else None
    by_seeds = stdev(values) / sqrt(len(values)) if len(values) > 1 else None
    return max((error for error in (by_rows, by_seeds) if error is not None), default=None)
