"""``hydra/sweeper=optuna``: the search space of the chosen adapter and defaults for a study."""

from __future__ import annotations

import logging
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from toplora_train.config.compose import load_yaml, own_folders, typed_overrides
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options

OPTUNA = "hydra_plugins.hydra_optuna_sweeper."
DEFAULTS = {
    "n_jobs": 1,  # trials at a time; more are for a launcher that runs them at once
    "max_failure_rate": 1.0,  # a failed trial leaves the others
}


def searches(sweeper: DictConfig) -> bool:
    """Whether the sweeper compares its jobs' results on held-out rows."""
    return str(sweeper._target_).startswith(OPTUNA)


def prepare_search(config: DictConfig) -> None:
    """Fill in what the user has not typed: the adapter's space, ``hydra/search/ADAPTER.yaml``.

    Args:
        config: The sweep's configuration; ``hydra.sweeper`` is changed.
    """
    sweeper = config.hydra.sweeper
    typed = [str(word).partition("=")[0].lstrip("+") for word in config.hydra.overrides.hydra]
    for key, value in DEFAULTS.items():
        if f"hydra.sweeper.{key}" not in typed:
            sweeper[key] = value
    if sweeper.get("params") is None and sweeper.get("search_space") is None:
        found = options("hydra/search", own_folders(config.hydra))
        name = config.hydra.runtime.choices.get("adapter")
        if name in found:
            sweeper.params = dict(load_yaml(found[name].path))
    if sweeper.sampler.get("seed", 0) is None:
        sweeper.sampler.seed = config.seed  # a continued search must propose the same jobs again


def validate_search(config: DictConfig) -> None:
    """Check that the search is over settings of one adapter, and in the right direction.

    Raises:
        UserError: It is not.
    """
    logging.getLogger("optuna").setLevel(logging.WARNING)
    logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.ERROR)  # we report
    sweeper: dict[str, Any] = dict(config.hydra.sweeper)
    if str(sweeper.get("direction", "minimize")).lower().rpartition(".")[2] != "minimize":
        raise UserError(
            "hydra.sweeper.direction must be minimize: a job's result is its validation loss, or 1 "
            "minus its held-out metric"
        )
    if config.plan or config.prefetch:
        raise UserError(
            "hydra/sweeper=optuna needs the results of jobs that train; plan or prefetch without it"
        )
    typed = OverridesParser.create().parse_overrides(typed_overrides(config.hydra))
    swept = {one.key_or_group for one in typed if one.is_sweep_override()}
    if "adapter" in swept:
        raise UserError(
            "hydra/sweeper=optuna searches the settings of one adapter; choose one, and search for "
            "each of the others with a command of its own"
        )
    if not swept and not sweeper.get("params") and not sweeper.get("search_space"):
        name = config.hydra.runtime.choices.get("adapter")
        raise UserError(
            f"there is no search space for adapter={name}: type one, such as "
            "'optimizer.lr=tag(log, interval(1e-5, 1e-2))', or write hydra/search/"
            f"{name}.yaml into your --config-dir"
        )
