"""The gain of a tuned model over its base model, from both models' answers to the same rows.

The comparison is paired by row: how hard a question is affects both models alike and so does not
widen the interval of the difference.
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
    """The gain computed from a folder's predictions; None if the base model's are missing.

    Raises:
        UserError: A file is missing, or the base and tuned models answered different rows.
    """
    paths = {task: (folder / f"{task}.base.jsonl", folder / f"{task}.jsonl") for task in tasks}
    if not tasks or not all(base.is_file() for base, _ in paths.values()):
        return None
    return gain({t: (read_predictions(b), read_predictions(own)) for t, (b, own) in paths.items()})


def gain(answers: Mapping[str, tuple[Answers, Answers]]) -> dict[str, Any]:
    """The difference between tuned and base model, with its paired interval.

    Args:
        answers: For each task, the answers of the base and the tuned model to the same rows.

    Returns:
        ``value, ci95, p, detectable`` (see :class:`toplora_train.evaluation.paired.Difference`) for
        the unweighted mean over tasks, and in ``tasks`` the same for each task.
    """
    scores = {task: _scores(task, base, tuned) for task, (base, tuned) in answers.items()}
    mean = mean_over_tasks(list(scores.values()))
    return _difference(mean) | {"tasks": {task: _difference(one) for task, one in scores.items()}}


def gain_text(report: Mapping[str, Any]) -> str:
    """Each task's gain and how it was computed, in words; empty if there is none."""
    if not report.get("gain"):
        return ""
    gains = "; ".join(
        f"{task} {points(one['value'])} ({points(one['ci95'][0])} to {points(one['ci95'][1])})"
        for task, one in report["gain"]["tasks"].items()
    )
    return (
        f"Gain over the base model in points: {gains}. Both models answered the same rows, so the "
        "95 % intervals of the gains are paired; they cover variation over test rows, not over "
        "training seeds."
    )


def _scores(task: str, base: Answers, tuned: Answers) -> RowScores:
    if [one.id for one in base] != [one.id for one in tuned]:
        raise UserError(
            f"the stored predictions of the base and the tuned model on {task} are for different "
            "rows; evaluate again"
        )
    right = np.array([[one.correct for one in answers] for answers in (base, tuned)], dtype=bool)
    return share_right(right, [one.prompt for one in tuned])


def _difference(scores: RowScores) -> dict[str, Any]:
    found = asdict(compare(scores, [0], [1]))
    return {key: found[key] for key in ("value", "ci95", "p", "detectable")}
