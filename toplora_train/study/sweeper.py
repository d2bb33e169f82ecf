"""Hydra's own sweep, every combination, in which a job that cannot be composed fails alone."""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser


class Combinations(BasicSweeper):
    """Leaves the validation of the jobs and all files to the study's launcher."""

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Launch every combination of the values.

        Args:
            arguments: The command line's overrides.
        """
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        returned: list[Any] = []
        number = 0
        for batch in self.split_arguments(overrides, self.max_batch_size):
            returned.append(self.launcher.launch(batch, initial_job_idx=number))
            number += len(batch)
        return returned
