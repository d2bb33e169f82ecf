"""Sections of the pages beside the scores: contamination, confusion matrices, published scores."""

from __future__ import annotations

from collections import Counter
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


def cut_off_text(report: Mapping[str, Any]) -> str:
    """Return how many answers of each task were cut off at max_new_tokens, in words, or ""."""
    parts = []
    for name, task in report["tasks"].items():
        tuned, base = task.get("cut_off") or 0, task.get("base_cut_off") or 0
        if tuned or base:
            of_base = f", {count(base)} of the base model's" if base else ""
            parts.append(f"{name}, {count(tuned)} of {count(task['n'])} answers{of_base}")
    if not parts:
        return ""
    return f"Cut off at max_new_tokens and scored on the text up to there: {'; '.join(parts)}."


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


def confusion(
    predictions: Sequence[Prediction], most: int = 20
) -> tuple[list[str], list[list[int]]] | None:
    """The classes, and how often each (row) was predicted as each (column); shape (k, k).

    None without class probabilities (no classifier), or for more than ``most`` classes.
    """
    scores = predictions[0].scores if predictions else None
    if scores is None or len(scores) > most:
        return None
    counts = Counter((one.label, one.prediction) for one in predictions)
    classes = list(scores)
    return classes, [[counts[label, predicted] for predicted in classes] for label in classes]


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

    A published mean is compared only if it covers the same tasks, a result of a legacy protocol
    only with one of the same protocol, and a result that started from another adapter only if this
    run did too.
    """
    rows = []
    started_from = report["adapter"]["settings"].get("start_from")
    for one in report.get("expected") or ():
        source = f"{one['source']}, protocol {one['protocol']}"
        start = one.get("start")  # missing in older reports
        if start is not None:
            source += f"; started from {start}, this run from {started_from or 'the base model'}"
        unlike = None if start is None or started_from is not None else "different start"
        if one["protocol"].startswith("legacy.") and one["protocol"] != report["protocol"]:
            unlike = "different protocol"
        for task, published in one["scores"].items():
            if task in report["tasks"]:
                ours = 100 * report["tasks"][task]["value"]
                rows.append(_row(task, ours, published, source, unlike=unlike))
        if one["average"] is not None and report["average"] is not None:
            same_tasks = set(one["scores"]) == set(report["tasks"])
            ours = 100 * report["average"] if same_tasks else None
            rows.append(_row("mean", ours, one["average"], source, unlike=unlike))
    return rows


def _row(
    task: str, ours: float | None, published: float, source: str, *, unlike: str | None
) -> list[str]:
    if ours is None:
        return [task, "different tasks", f"{published:g} %", "", source]
    difference = unlike or f"{ours - published:+.1f}"
    return [task, f"{ours:.1f} %", f"{published:g} %", difference, source]
