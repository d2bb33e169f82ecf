"""The result of a job on the held-out rows: what a search of settings goes by.

It is the metric that selects the best checkpoint, or the last validation loss where none is
selected; never a test score.
"""

from __future__ import annotations

from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task, selects_by_loss
from toplora_train.config.schema import RunConfig


def held_out_result(report: dict[str, Any]) -> float | None:
    """The result on the held-out rows in a completed run's report; None without such rows."""
    train = report.get("train", {})
    selection = train.get("selection")
    if not selection:
        loss = train.get("validation_loss")
        return None if loss is None else float(loss)
    (best,) = (one["value"] for one in selection["epochs"] if one["step"] == selection["step"])
    return float(best)


def metric_name(config: RunConfig) -> str:
    """The name of the result: ``validation loss``, or ``held-out`` and the metric."""
    head = head_task(config)
    if _is_loss(config):
        return "validation loss"
    return f"held-out {head.metric if head is not None else 'accuracy'}"


def cost(config: RunConfig, result: float) -> float:
    """The result as a quantity to minimize: the loss itself, or 1 minus the metric."""
    return result if _is_loss(config) else 1.0 - result


def _is_loss(config: RunConfig) -> bool:
    return config.trainer.select == "last" or selects_by_loss(config)


def validate_held_out(config: RunConfig) -> None:
    """Check that a search has something to go by.

    Raises:
        UserError: No rows are held out.
    """
    if not (config.dataset.validation_rows or config.dataset.validation_share):
        raise UserError(
            "settings are compared on held-out rows, never on the test set, and none are held out; "
            "set dataset.validation_rows or dataset.validation_share"
        )
