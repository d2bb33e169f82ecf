"""Replace a run's ``adapter.budget`` by ranks, before anything else is done with it."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from toplora_train.adapters.attach import fit_to_budget
from toplora_train.config.schema import RunConfig
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.run_data import RunData


def within_budget(config: RunConfig, run_data: RunData) -> tuple[RunConfig, str | None]:
    """The run with the ranks nearest to its budget, and a line with the resulting size.

    Raises:
        UserError: No rank comes near it.
    """
    if config.adapter.get("budget") is None:
        return config, None
    model = load_base(config, run_data.location, run_data.objective.head, meta=True)
    return within_budget_on(model, config)


def within_budget_on(model: nn.Module, config: RunConfig) -> tuple[RunConfig, str | None]:
    """The same for a base model that is already built, with or without weights.

    Raises:
        UserError: No rank comes near it.
    """
    if config.adapter.get("budget") is None:
        return config, None
    fit = fit_to_budget(model, config.adapter)
    return replace(config, adapter={**fit.settings, "budget": None}), f"adapter.budget: {fit}"
