"""A run whose ``adapter.budget`` has become ranks, before anything else is done with it."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from toplora_train.adapters.attach import fit_to_budget
from toplora_train.config.schema import RunConfig
from toplora_train.jobs.material import Material
from toplora_train.jobs.objective import load_base


def within_budget(config: RunConfig, material: Material) -> tuple[RunConfig, str | None]:
    """The run with the ranks that come nearest to its budget, and what they come to, in a line.

    Raises:
        UserError: No rank comes to it.
    """
    if config.adapter.get("budget") is None:
        return config, None
    model = load_base(config, material.location, material.objective.head, meta=True)
    return within_budget_on(model, config)


def within_budget_on(model: nn.Module, config: RunConfig) -> tuple[RunConfig, str | None]:
    """The same where the base model is built already, with or without weights.

    Raises:
        UserError: No rank comes to it.
    """
    if config.adapter.get("budget") is None:
        return config, None
    fit = fit_to_budget(model, config.adapter)
    return replace(config, adapter={**fit.settings, "budget": None}), f"adapter.budget: {fit}"
