"""What a report calls things, where a head was trained and where a model writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toplora_train.config.methods import HEADS


@dataclass(frozen=True)
class Wording:
    """The words that differ.

    Attributes:
        unit: What the loss is counted per.
        unscored: Why there is no score of the base model.
        scored: What the scores and their intervals are.
        proven: What is known of the rows' way into the model.
    """

    unit: str
    unscored: str
    scored: str
    proven: str


WRITING = Wording(
    unit="token",
    unscored="not evaluated",
    scored="Accuracy. Intervals are Wilson's.",
    proven="Every training row begins with the very tokens that evaluation would give the model as "
    "its prompt.",
)
JUDGING = Wording(
    unit="label",
    unscored="untrained head",
    scored="Accuracy, or the metric that is named, in hundredths. Intervals are Wilson's for an "
    "accuracy, else from a bootstrap over the rows.",
    proven="Training and evaluation turn a row's texts into tokens in the same way, without a "
    "prompt.",
)


def has_head(report: Mapping[str, Any]) -> bool:
    """Whether the run trained a head."""
    return any(task.get("kind") in HEADS for task in report["tasks"].values())


def wording(report: Mapping[str, Any]) -> Wording:
    """The words for this run."""
    return JUDGING if has_head(report) else WRITING


def head_verdict(report: Mapping[str, Any]) -> str:
    """What the scores of a head mean, held against always giving one answer."""
    constant = (
        "giving the same number to every row"
        if all(task.get("kind") == "regress" for task in report["tasks"].values())
        else "always giving the most frequent class"
    )
    tasks = report["tasks"].items()
    better = [name for name, task in tasks if task["ci95"][0] > task["majority_value"]]
    untold = [name for name, _ in tasks if name not in better]
    if not untold:
        return f"The tuned model is better than {constant}."
    return (
        f"Whether the tuned model is better than {constant} cannot be "
        f"told from these rows{' of ' + ', '.join(untold) if better else ''}."
    )
