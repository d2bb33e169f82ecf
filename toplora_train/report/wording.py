"""Report texts that depend on whether a head was trained or a language model generates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from toplora_train.config.methods import HEADS


@dataclass(frozen=True)
class Wording:
    """The texts that differ.

    Attributes:
        unit: The unit that the loss is averaged over.
        unscored: Why the base model has no score.
        scored: What the scores and their intervals are.
        proven: What was checked about tokenization.
    """

    unit: str
    unscored: str
    scored: str
    proven: str


LANGUAGE_MODEL = Wording(
    unit="token",
    unscored="not evaluated",
    scored="Accuracy. Intervals are Wilson's.",
    proven="Every training row starts with exactly the prompt tokens that evaluation uses.",
)
HEAD = Wording(
    unit="label",
    unscored="untrained head",
    scored="Accuracy unless another metric is named; all metrics are multiplied by 100. Intervals "
    "are Wilson's for accuracy and bootstrapped over rows for other metrics.",
    proven="Training and evaluation tokenize a row's text in the same way, without a prompt.",
)

IMAGES = replace(
    HEAD, proven="Training and evaluation decode, resize and normalize an image in the same way."
)


def has_images(report: Mapping[str, Any]) -> bool:
    """Whether the run's rows are images."""
    return bool(report.get("data", {}).get("wording") == "images")


def has_head(report: Mapping[str, Any]) -> bool:
    """Whether the run trained a classification or regression head."""
    return any(task.get("kind") in HEADS for task in report["tasks"].values())


def wording(report: Mapping[str, Any]) -> Wording:
    """The texts for this run."""
    if has_images(report):
        return IMAGES
    return HEAD if has_head(report) else LANGUAGE_MODEL


def head_verdict(report: Mapping[str, Any]) -> str:
    """Interpret a head's scores compared with a constant answer."""
    constant = (
        "always predicting the same number"
        if all(task.get("kind") == "regress" for task in report["tasks"].values())
        else "always predicting the most frequent class"
    )
    tasks = report["tasks"].items()
    better = [name for name, task in tasks if task["ci95"][0] > task["majority_value"]]
    unclear = [name for name, _ in tasks if name not in better]
    if not unclear:
        return f"The tuned model is better than {constant}."
    return (
        f"The tuned model is not significantly better than {constant}"
        f"{' on ' + ', '.join(unclear) if better else ''}."
    )
