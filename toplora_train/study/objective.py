"""What a search of settings minimizes: of :mod:`toplora_train.report.held_out`'s results."""

from __future__ import annotations

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task, selects_by_loss
from toplora_train.config.schema import RunConfig
from toplora_train.report.held_out import VALIDATION_LOSS


def metric_name(config: RunConfig) -> str:
    """The name of the result: ``validation loss``, or ``held-out`` and the metric."""
    head = head_task(config)
    if minimizes_loss(config):
        return VALIDATION_LOSS
    return f"held-out {head.metric if head is not None else 'accuracy'}"


def cost(config: RunConfig, result: float) -> float:
    """The result as a quantity to minimize: the loss itself, or 1 minus the metric."""
    return result if minimizes_loss(config) else 1.0 - result


def minimizes_loss(config: RunConfig) -> bool:
    """Whether the result is a loss rather than a metric."""
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
