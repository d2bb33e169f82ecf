"""Every combination of the values, or the phases of a study; all files are left to the launcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from toplora_train.launch.outcome import read_report
from toplora_train.study.phases import Method, design_of, validate_keys


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
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Launch every combination of the values.

        Args:
            arguments: The command line's overrides.
        """
        assert self.launcher is not None
        returned: list[Any] = []
        number = 0
        for batch in self._batches(self._parsed(arguments)):
            returned.append(self.launcher.launch(batch, initial_job_idx=number))
            number += len(batch)
        return returned

    def _parsed(self, arguments: list[str]) -> list[Override]:
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        params = [f"{key}={value}" for key, value in self._params.items()]
        return parser.parse_overrides([*params, *arguments])

    def _batches(self, parsed: list[Override]) -> list[list[list[str]]]:
        # Not at the top: Hydra runs this module a second time when it looks for plugins.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        return BasicSweeper.split_arguments(parsed, self._size)


class Phases(Combinations):
    """Launches the phases of ``study=NAME``, see :mod:`toplora_train.study.phases`."""

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Launch one phase after another; with ``plan=true`` one job of each method.

        Args:
            arguments: The command line's overrides.
        """
        launcher: Any = self.launcher  # a StudyLauncher
        assert self.config is not None
        settings = OmegaConf.to_container(self.config.study, resolve=True)
        assert isinstance(settings, dict)
        design = design_of({str(key): value for key, value in settings.items()})
        parsed = [
            one for one in self._parsed(arguments) if one.key_or_group.partition(".")[0] != "study"
        ]
        validate_keys(design, [one.key_or_group for one in parsed])
        combinations = [one for batch in self._batches(parsed) for one in batch]
        methods = design.methods([tuple(one) for one in combinations])
        self._number = 0
        if launcher.trains:
            design.run(methods, self._launch)
        else:
            launcher.outline = design.outline(methods)
            launcher.launch([list(method) for method in methods], initial_job_idx=0)
        return []

    def _launch(self, jobs: Sequence[Method], inside: str) -> list[Mapping[str, Any]]:
        launcher: Any = self.launcher
        launcher.inside = inside
        returned = launcher.launch([list(job) for job in jobs], initial_job_idx=self._number)
        self._number += len(jobs)
        study = launcher.study
        completed = {study.run_dir(job) for job in study.jobs() if job.status == "completed"}
        folders = [Path(str(one.working_dir)) for one in returned]
        # A job that could not be extended has a report, of its shorter run, but is not completed.
        return [read_report(folder) if folder in completed else {} for folder in folders]
