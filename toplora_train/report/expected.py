"""Published scores next to the run's own, with source and difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def matching(
    expected: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The published results for the adapter and rank in ``settings``."""
    return [
        dict(one)
        for one in expected
        if one["adapter"] == settings["name"] and one["r"] in (None, settings.get("r"))
    ]


def expected_table(report: Mapping[str, Any]) -> list[list[str]]:
    """Rows of cells: task, here, published, difference in points, source.

    A published mean is compared only if it covers the same tasks, and a published result that
    started from another adapter only if this run did too.
    """
    rows = []
    started_from = report["adapter"]["settings"].get("start_from")
    for one in report.get("expected") or ():
        source = f"{one['source']}, protocol {one['protocol']}"
        start = one.get("start")  # missing in older reports
        if start is not None:
            source += f"; started from {start}, this run from {started_from or 'the base model'}"
        same_start = start is None or started_from is not None
        for task, published in one["scores"].items():
            if task in report["tasks"]:
                ours = 100 * report["tasks"][task]["value"]
                rows.append(_row(task, ours, published, source, comparable=same_start))
        if one["average"] is not None and report["average"] is not None:
            same_tasks = set(one["scores"]) == set(report["tasks"])
            ours = 100 * report["average"] if same_tasks else None
            rows.append(_row("mean", ours, one["average"], source, comparable=same_start))
    return rows


def _row(
    task: str, ours: float | None, published: float, source: str, *, comparable: bool
) -> list[str]:
    if ours is None:
        return [task, "different tasks", f"{published:g} %", "", source]
    difference = f"{ours - published:+.1f}" if comparable else "different start"
    return [task, f"{ours:.1f} %", f"{published:g} %", difference, source]
