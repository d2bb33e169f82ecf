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
from toplora_train.evaluation.paired import compare
from toplora_train.evaluation.predictions import Prediction, read_predictions
from toplora_train.evaluation.row_scores import RowScores, mean_over_tasks, share_right
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
    scores = {task: _scores(task, base, tuned) for task, (base, tuned) in answers.items()}
    mean = mean_over_tasks(list(scores.values()))
    return _difference(mean) | {"tasks": {task: _difference(one) for task, one in scores.items()}}


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
        "compared row by row, so the intervals of the gains are paired (95 %, over further "
        "questions; another seed may gain more or less)."
    )


def _scores(task: str, base: Answers, tuned: Answers) -> RowScores:
    if [one.id for one in base] != [one.id for one in tuned]:
        raise UserError(
            f"the stored answers of base and tuned model to {task} are not to the same rows; "
            "evaluate again"
        )
    right = np.array([[one.correct for one in answers] for answers in (base, tuned)], dtype=bool)
    return share_right(right, [one.prompt for one in tuned])


def _difference(scores: RowScores) -> dict[str, Any]:
    found = asdict(compare(scores, [0], [1]))
    return {key: found[key] for key in ("value", "ci95", "p", "detectable")}
