"""A run's result on its held-out rows, by which settings are chosen; never a test score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

VALIDATION_LOSS = "validation loss"


class HeldOut(NamedTuple):
    """The metric that selected the run's epoch, or the validation loss at the end.

    ``rows`` is how many rows a metric is over, None for the loss at the end.
    """

    metric: str
    value: float
    rows: int | None


def held_out(report: Mapping[str, Any]) -> HeldOut | None:
    """The result in a completed run's report; None without held-out rows."""
    train = report.get("train", {})
    chosen = train.get("selection")
    if chosen:
        (value,) = (one["value"] for one in chosen["epochs"] if one["step"] == chosen["step"])
        return HeldOut(str(chosen["metric"]), float(value), int(chosen["rows"]))
    loss = train.get("validation_loss")
    return None if loss is None else HeldOut(VALIDATION_LOSS, float(loss), None)
