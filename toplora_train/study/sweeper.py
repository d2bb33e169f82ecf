"""Hydra's own sweep, every combination, in which a job that cannot be composed fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from toplora_train.launch.outcome import is_completed, read_report
from toplora_train.study.phases import Method, Result, design_of, validate_keys


class Combinations(BasicSweeper):
    """Leaves the validation of the jobs and all files to the study's launcher."""

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Launch every combination of the values.

        Args:
            arguments: The command line's overrides.
        """
        assert self.launcher is not None
        returned: list[Any] = []
        number = 0
        for batch in self.split_arguments(self._parsed(arguments), self.max_batch_size):
            returned.append(self.launcher.launch(batch, initial_job_idx=number))
            number += len(batch)
        return returned

    def _parsed(self, arguments: list[str]) -> list[Override]:
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides([*self._parse_config(), *arguments])


class Phases(Combinations):
    """Launches the phases of ``study=NAME``, see :mod:`toplora_train.study.phases`."""

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Launch one phase after another; with ``plan=true`` one job of each method.

        Args:
            arguments: The command line's overrides.
        """
        assert self.launcher is not None
        assert self.config is not None
        settings = OmegaConf.to_container(self.config.study, resolve=True)
        assert isinstance(settings, dict)
        design = design_of({str(key): value for key, value in settings.items()})
        parsed = [
            one for one in self._parsed(arguments) if one.key_or_group.partition(".")[0] != "study"
        ]
        validate_keys(design, [one.key_or_group for one in parsed])
        (combinations,) = self.split_arguments(parsed, None)
        methods = design.methods([tuple(one) for one in combinations])
        self._number = 0
        if self.launcher.trains:
            design.run(methods, self._launch)
        else:
            self.launcher.outline = design.outline(methods)
            self.launcher.launch([list(method) for method in methods], initial_job_idx=0)
        return []

    def _launch(self, jobs: Sequence[Method], inside: str) -> list[Result]:
        assert self.launcher is not None
        self.launcher.inside = inside
        returned = self.launcher.launch([list(job) for job in jobs], initial_job_idx=self._number)
        self._number += len(jobs)
        folders = [Path(str(one.working_dir)) for one in returned]
        return [
            Result(one.return_value, read_report(folder) if is_completed(folder) else {})
            for one, folder in zip(returned, folders, strict=True)
        ]
