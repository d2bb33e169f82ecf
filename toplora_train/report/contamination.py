"""Test rows that are also training rows, as the report says it: how many, and the score without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.report.numbers import count


def contamination_text(report: Mapping[str, Any]) -> str:
    """Return how many test rows of which task are training rows, in words.

    ``data.contamination`` maps a task's name to ``{"rows": int, "ids": [...]}``; it is
    None where nobody looked.
    """
    found = report["data"]["contamination"]
    if found is None:
        return "not looked for"
    told = [
        f"{name}: {count(task['rows'])} of {count(report['tasks'][name]['n'])}"
        for name, task in found.items()
        if task["rows"] and name in report["tasks"]
    ]
    return "; ".join(told) or "none found"


def clean_scores(
    report: Mapping[str, Any], predictions: Mapping[str, Sequence[Prediction]]
) -> dict[str, dict[str, Any]]:
    """Return, for each task with test rows that were trained on, the score on its other rows.

    Each is ``{value, ci95, n}``; a task of which no row is left has none.
    """
    scores = {}
    for name, task in (report["data"]["contamination"] or {}).items():
        seen = set(task["ids"])
        kept = [p.correct for p in predictions.get(name, ()) if p.id not in seen]
        if seen and kept:
            right, n = sum(kept), len(kept)
            scores[name] = {"value": right / n, "ci95": wilson_interval(right, n), "n": n}
    return scores
