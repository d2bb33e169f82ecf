"""How much better a tuned model is than its base model, from both models' answers to the same rows.

The two are compared row by row: what makes a question easy or hard makes it so for both, and does
not widen the interval of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from toplora_train.config.errors import UserError
from toplora_train.evaluation.paired import Right, compare_tasks
from toplora_train.evaluation.predictions import Prediction, read_predictions
from toplora_train.report.numbers import points

Answers = Sequence[Prediction]


def read_gain(folder: Path, tasks: Sequence[str]) -> dict[str, Any] | None:
    """The gain that the predictions in a folder show; None where the base model has none there.

    Raises:
        UserError: a file is missing, or base and tuned model answered different rows.
    """
    paths = {task: (folder / f"{task}.base.jsonl", folder / f"{task}.jsonl") for task in tasks}
    if not tasks or not all(base.is_file() for base, _ in paths.values()):
        return None
    return gain({t: (read_predictions(b), read_predictions(own)) for t, (b, own) in paths.items()})


def gain(answers: Mapping[str, tuple[Answers, Answers]]) -> dict[str, Any]:
    """The difference of tuned and base model, with its paired interval.

    Args:
        answers: Each task's answers of the base and of the tuned model, to the same rows.

    Returns:
        ``value, ci95, p, detectable`` (see :class:`toplora_train.evaluation.paired.Difference`) of
        the plain mean over the tasks, and in ``tasks`` the same of each.
    """
    pairs = {task: _paired(task, base, tuned) for task, (base, tuned) in answers.items()}
    each, mean = compare_tasks(list(pairs.values()))
    found = {task: asdict(one) for task, one in zip(pairs, each, strict=True)}
    return asdict(mean) | {"tasks": found}


def gain_text(report: Mapping[str, Any]) -> str:
    """Each task's gain and how it was compared, in words; empty where nothing is known of it."""
    if not report.get("gain"):
        return ""
    told = "; ".join(
        f"{task} {points(one['value'])} ({points(one['ci95'][0])} to {points(one['ci95'][1])})"
        for task, one in report["gain"]["tasks"].items()
    )
    return (
        f"Points gained over the base model: {told}. Both models answered the same rows and are "
        "compared row by row, so the intervals of the gains are paired (95 %, bootstrap over the "
        "questions)."
    )


def _paired(task: str, base: Answers, tuned: Answers) -> tuple[Right, Right, list[str]]:
    if [one.id for one in base] != [one.id for one in tuned]:
        raise UserError(
            f"the stored answers of base and tuned model to {task} are not to the same rows; "
            "evaluate again"
        )
    questions = [one.prompt for one in tuned]
    return _right(base), _right(tuned), questions


def _right(answers: Answers) -> Right:
    return np.array([[float(one.correct) for one in answers]])
