"""Contamination in the report: how many test rows were trained on, and the score without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.evaluation.metrics import as_numbers, measure
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.report.numbers import count


def contamination_text(report: Mapping[str, Any]) -> str:
    """Return how many test rows of each task are in the training data, in words.

    ``data.contamination`` maps a task's name to ``{"rows": int, "ids": [...]}``; it is
    None if this was not checked.
    """
    found = report["data"]["contamination"]
    if found is None:
        return "not checked"
    parts = [
        f"{name}: {count(task['rows'])} of {count(report['tasks'][name]['n'])}"
        for name, task in found.items()
        if task["rows"] and name in report["tasks"]
    ]
    return "; ".join(parts) or "none found"


def clean_scores(
    report: Mapping[str, Any], predictions: Mapping[str, Sequence[Prediction]]
) -> dict[str, dict[str, Any]]:
    """Return, for each contaminated task, the score on the rows that were not trained on.

    Each is ``{value, ci95, n}``; a task with no such rows is left out.
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
    choices = list(kept[0].scores or ())  # the class names, by class number
    measured = measure(
        metric,
        as_numbers([prediction.prediction or "" for prediction in kept], choices),
        as_numbers([prediction.label for prediction in kept], choices),
    )
    return measured.value, measured.ci95
