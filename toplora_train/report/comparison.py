"""Runs side by side: a leaderboard, and every method held against the first one, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from toplora_train.evaluation.paired import (
    Difference,
    Right,
    compare_tasks,
    holm,
    verdict,
)
from toplora_train.report.json_file import plain_json
from toplora_train.report.runs import (
    Method,
    Run,
    group,
    learning_rate_warning,
    refuse_different_protocols,
)


def compare_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """All that is known of how the runs' methods differ.

    Returns:
        ``protocol_hash``, ``tasks``, ``methods`` (best first: name, seeds, scores by task, average,
        its deviation between seeds, trainable parameters, seconds) and ``comparisons`` (of each
        method with the first: by task and on average difference, ci95, p, detectable, verdict),
        and ``warnings``.

    Raises:
        UserError: the runs were asked different things.
    """
    refuse_different_protocols(runs)
    methods = group(runs)
    tasks = list(runs[0].report["tasks"])
    warnings = [warning for warning in (learning_rate_warning(methods),) if warning]
    if len(methods) > 1 and any(len(method.runs) == 1 for method in methods):
        warnings.append(
            "A method with one seed: how far another seed would move it is not in the intervals."
        )
    scores = [_scores_of(method, tasks) for method in methods]
    document = {
        "protocol": runs[0].report["protocol"],
        "protocol_hash": runs[0].report["protocol_hash"],
        "tasks": {
            task: {key: runs[0].report["tasks"][task][key] for key in ("metric", "kind", "n")}
            for task in tasks
        },
        "methods": sorted(scores, key=lambda method: -(method["average"] or 0.0)),
        "comparisons": [_against(methods[0], method, tasks) for method in methods[1:]],
        "warnings": warnings,
    }
    plain: dict[str, Any] = plain_json(document)
    return plain


def _scores_of(method: Method, tasks: Sequence[str]) -> dict[str, Any]:
    """A method's line of the leaderboard."""
    reports = [run.report for run in method.runs]
    averages = [report["average"] for report in reports if report["average"] is not None]
    return {
        "name": method.name,
        "runs": [str(run.folder) for run in method.runs],
        "seeds": [report["seed"] for report in reports],
        "tasks": {
            task: float(np.mean([report["tasks"][task]["value"] for report in reports]))
            for task in tasks
        },
        "average": float(np.mean(averages)) if averages else None,
        "deviation": float(np.std(averages, ddof=1)) if len(averages) > 1 else None,
        "average_ci95": reports[0]["average_ci95"] if len(reports) == 1 else None,
        "trainable_parameters": reports[0]["adapter"]["trainable_parameters"],
        "seconds": float(np.mean([report["train"]["seconds"] for report in reports])),
    }


def _against(first: Method, second: Method, tasks: Sequence[str]) -> dict[str, Any]:
    """``second`` held against ``first`` on every task whose metric counts right answers."""
    counted = [t for t in tasks if first.runs[0].report["tasks"][t]["metric"] == "accuracy"]
    material: list[tuple[Right, Right, list[str]]] = []
    for task in counted:
        rows = first.runs[0].predictions(task)
        ids = [row.id for row in rows]
        questions = [row.prompt for row in rows]
        material.append((first.right(task, ids), second.right(task, ids), questions))
    found, mean = compare_tasks(material) if material else ([], None)
    adjusted = holm([difference.p for difference in found])
    return {
        "first": first.name,
        "second": second.name,
        "tasks": {
            task: _told(difference, p)
            for task, difference, p in zip(counted, found, adjusted, strict=True)
        },
        "not_compared": [task for task in tasks if task not in counted],
        "average": _told(mean, mean.p) if mean and len(found) > 1 else None,
    }


def _told(difference: Difference, adjusted: float) -> dict[str, Any]:
    return asdict(difference) | {
        "p_adjusted": adjusted,
        "verdict": verdict(difference, adjusted),
    }
