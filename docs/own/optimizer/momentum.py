"""Stochastic gradient descent with momentum, with half of Adam's state."""

from typing import Any

import torch


def build_optimizer(
    groups: list[dict[str, Any]], *, lr: float, momentum: float, **_: Any
) -> torch.optim.Optimizer:
    """The optimizer over groups that have their weight decay; the schedule sets their rates.

    Args:
        groups: The parameters by weight decay and learning-rate factor.
        lr: The peak learning rate.
        momentum: The key ``optimizer.settings.momentum``.
        **_: Adam's ``betas`` and ``eps``.
    """
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)
