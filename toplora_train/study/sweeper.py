"""Every combination of the values, as Hydra's own sweeper; all files are left to the launcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Combinations(Sweeper):
    """Hydra's ``BasicSweeper``, in which a job that cannot be composed fails alone.

    Args:
        max_batch_size: The number of jobs per launch; None launches all at once.
        params: Overrides in addition to those on the command line.
    """

    def __init__(self, max_batch_size: int | None, params: Mapping[str, str] | None = None) -> None:
        self._size, self._params = max_batch_size, dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher."""
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Launch every combination of the values.

        Args:
            arguments: The command line's overrides.
        """
        # Not at the top: Hydra runs this module a second time when it looks for plugins.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        params = [f"{key}={value}" for key, value in self._params.items()]
        overrides = parser.parse_overrides([*params, *arguments])
        returned: list[Any] = []
        number = 0
        for batch in BasicSweeper.split_arguments(overrides, self._size):
            returned.append(self.launcher.launch(batch, initial_job_idx=number))
            number += len(batch)
        return returned
