"""Test rows that are also training rows, as the report says it: how many, and the score without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.evaluation.metrics import as_numbers, measure
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
        kept = [p for p in predictions.get(name, ()) if p.id not in seen]
        if seen and kept:
            value, ci95 = _score(kept, report["tasks"][name]["metric"])
            scores[name] = {"value": value, "ci95": ci95, "n": len(kept)}
    return scores


def _score(kept: Sequence[Prediction], metric: str) -> tuple[float, tuple[float, float]]:
    if metric == "accuracy":
        right = sum(prediction.correct for prediction in kept)
        return right / len(kept), wilson_interval(right, len(kept))
    choices = list(kept[0].scores or ())  # the classes, in the order of their numbers
    measured = measure(
        metric,
        as_numbers([prediction.prediction or "" for prediction in kept], choices),
        as_numbers([prediction.label for prediction in kept], choices),
    )
    return measured.value, measured.ci95
