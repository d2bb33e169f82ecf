"""Held-out scores by learning rate: each adapter's curve, and its best rate.

``near`` are the rates whose mean is within one standard error of the best one's: the band of the
one-standard-error rule (Breiman, Friedman, Olshen and Stone, Classification and Regression Trees,
1984), which takes the simplest model in it; here the best rate stays chosen and the band is only
reported. It is no test: all rates of a seed are scored on the same rows, and one outside the band
may be no worse. An accuracy over n rows has ``sqrt(p (1 - p) / n)``, where two right and two wrong
rows are added for p (Agresti and Coull, The American Statistician 52, 1998), as otherwise an
accuracy of 1 would be certain. The mean of k seeds, which hold out rows of their own, has that over
``sqrt(k)``, or ``s / sqrt(k)`` of their deviation s if that is larger. With one seed other metrics
and losses have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from toplora_train.report.held_out import VALIDATION_LOSS, HeldOut, held_out
from toplora_train.report.methods import RATE, Method, typed
from toplora_train.report.numbers import rate
from toplora_train.report.runs import Run

TUNE_MORE = "Tune with three seeds or more (study.tuning_seeds)"


def learning_rates(
    methods: Sequence[Method], failed: Mapping[Path, Sequence[float]] | None = None
) -> dict[str, Any] | None:
    """The curves of adapters that were trained at several learning rates.

    Args:
        methods: The adapters, one method per rate.
        failed: See :func:`toplora_train.report.jobs.failed_rates`.

    Returns:
        ``metric``, and ``curves`` by adapter (:func:`rate_curve`). None if no adapter was trained
        at several rates with held-out rows, or only some have a loss.
    """
    grids: dict[str, dict[float, list[HeldOut | None]]] = {}
    for method in methods:
        grid = grids.setdefault(untuned(method), {})
        grid.setdefault(_rate(method.runs[0]), []).extend(held_out(r.report) for r in method.runs)
        for run in method.runs:
            for lr in (failed or {}).get(run.folder, ()):
                grid.setdefault(lr, []).append(None)
    curves = {name: rate_curve(grid) for name, grid in grids.items()}
    tuned = {name: curve for name, curve in curves.items() if curve and len(curve["points"]) > 1}
    results = chain.from_iterable(chain.from_iterable(grid.values()) for grid in grids.values())
    metrics = {found.metric for found in results if found is not None}
    if not tuned or (VALIDATION_LOSS in metrics and len(metrics) > 1):
        return None
    metric = metrics.pop() if len(metrics) == 1 else "score"  # tasks have different ones
    return {"metric": metric, "curves": tuned}


def rate_curve(grid: Mapping[float, Sequence[HeldOut | None]]) -> dict[str, Any] | None:
    """The held-out scores of one adapter, and the rate that they choose.

    Args:
        grid: The results of each rate's runs; None, or one that is not finite, is a failed run.

    Returns:
        The ``best`` rate, that with the best mean of those with the most results, so that a rate at
        which runs failed is not compared on the others alone; the rates ``near`` it; ``edge`` (a
        rate beyond the best to try next, None if the best one is inside the grid or no better than
        the others); and ``points``, each a ``rate`` with its ``values``, their ``mean`` and its
        standard ``error`` (None where nothing gives one). None if there is no result.
    """
    points: list[dict[str, Any]] = []
    for lr, results in sorted(grid.items()):
        found = [one for one in results if one is not None and isfinite(one.value)]
        if found:
            values = [one.value for one in found]
            error = _standard_error(found)
            points.append({"rate": lr, "values": values, "mean": fmean(values), "error": error})
            sign = 1 if found[0].metric == VALIDATION_LOSS else -1
    if not points:
        return None
    most = max(len(point["values"]) for point in points)
    whole = [point for point in points if len(point["values"]) == most]
    best = min(whole, key=lambda point: sign * point["mean"])
    near = [
        point["rate"]
        for point in whole
        if point is not best and sign * (point["mean"] - best["mean"]) <= (best["error"] or 0.0)
    ]
    rates = sorted(grid)
    edge = None
    if len(points) > 1 and not _is_flat(points):
        if best["rate"] == rates[0]:
            edge = rates[0] ** 2 / rates[1]
        elif best["rate"] == rates[-1]:
            edge = rates[-1] ** 2 / rates[-2]
    return {"best": best["rate"], "near": near, "edge": edge, "points": points}


def untuned(method: Method) -> str:
    """The method's name without its learning rate."""
    return method.name.replace(f" {RATE}={typed(method.runs[0].settings[RATE])}", "")


def edge_warnings(rates: Mapping[str, Any] | None, key: str = RATE) -> list[str]:
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
            f"One tuning seed gives the {rates['metric']} no standard error, so how certain the "
            f"best rates of {', '.join(unknown)} are is unknown. {TUNE_MORE}."
        )
    return warnings


def _is_flat(points: Sequence[Mapping[str, Any]]) -> bool:
    return len({point["mean"] for point in points}) == 1


def _rate(run: Run) -> float:
    return float(run.settings[RATE])


def _standard_error(found: Sequence[HeldOut]) -> float | None:
    """Of the mean over runs: by the rows if each is right or wrong, and by the seeds."""
    values = [one.value for one in found]
    by_rows = []
    for one in found:
        if one.metric == "accuracy" and one.rows:
            p = (one.value * one.rows + 2) / (one.rows + 4)
            by_rows.append(sqrt(p * (1 - p) / one.rows))
    errors = [fmean(by_rows) / sqrt(len(by_rows))] if by_rows else []
    if len(values) > 1:
        errors.append(stdev(values) / sqrt(len(values)))
    return max(errors, default=None)
