"""The jobs of a batch before they are launched: composed, validated, named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from toplora_train.config.compose import own_folders, run_config, typed_overrides
from toplora_train.config.errors import UserError
from toplora_train.config.explain import COMPOSITION_ERRORS, explain
from toplora_train.config.schema import RunConfig
from toplora_train.launch.worker import USER_ERROR
from toplora_train.report.jobs import Job
from toplora_train.run.prepare.own_table import with_table
from toplora_train.study.folder import folder_name, text_digest
from toplora_train.study.objective import validate_held_out


@dataclass(frozen=True)
class Planned:
    """A job: its settings, or the reason why it cannot run."""

    overrides: str
    config: RunConfig | None
    refusal: str | None = None

    def refused(self) -> Job:
        """The failed job of a refusal; without settings it is recognized by its overrides."""
        return Job(
            text_digest(self.overrides),
            self.overrides,
            folder_name(self.overrides),
            status="failed",
            exit_code=USER_ERROR,
            error=self.refusal,
        )


class ComposedOnce:
    """Hydra's loader, which composes a job once: for its plan, and where this process runs it.

    Args:
        loader: Hydra's own.
    """

    KEPT = 64  # compositions, of a megabyte each

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._kept: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        """A job's configuration, which the caller may change."""
        key = (*master.hydra.overrides.hydra, *overrides)
        if key in self._kept:
            return self._kept.pop(key)
        composed = self._loader.load_sweep_config(master, overrides)
        if len(self._kept) < self.KEPT:
            self._kept[key] = deepcopy(composed)
        return composed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Planner:
    """Composes jobs as Hydra will where they run.

    Args:
        context: Hydra's composition.
        config: The sweep's configuration.
        folder: The study's folder.
        searches: Whether the sweeper compares the jobs' results on held-out rows.
    """

    def __init__(
        self, context: HydraContext, config: DictConfig, folder: Path, *, searches: bool
    ) -> None:
        self._context, self._config, self._folder = context, config, folder
        self._searches = searches
        typed = OverridesParser.create().parse_overrides(typed_overrides(config.hydra))
        self._common = {one.key_or_group for one in typed if not one.is_sweep_override()}
        if config.get("study") is not None:  # a whole phase has it, in a folder of its own
            self._common.add("evaluation.enabled")

    def plan(self, overrides: list[str], number: int) -> Planned:
        """Compose and validate one job.

        Args:
            overrides: All of the job's overrides.
            number: Its number in the sweep.
        """
        parsed = OverridesParser.create().parse_overrides(overrides)
        swept = [str(one.input_line) for one in parsed if one.key_or_group not in self._common]
        name = " ".join(swept)
        try:
            config = self._compose(overrides, number)
            if self._searches:
                validate_held_out(config)
        except COMPOSITION_ERRORS as error:
            own = own_folders(self._config.hydra)
            return Planned(name, None, explain(error, overrides, own))
        except UserError as error:
            return Planned(name, None, str(error))
        return Planned(name, config)

    def _compose(self, overrides: list[str], number: int) -> RunConfig:
        composed = self._context.config_loader.load_sweep_config(self._config, overrides)
        with read_write(composed), open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
            composed.hydra.runtime.output_dir = str(self._folder)
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(composed)  # for ${hydra:...} in the user's settings
        try:
            settings = deepcopy(composed.hydra)
            with read_write(composed), open_dict(composed):
                del composed["hydra"]
            config = run_config(composed, settings, sys.argv[1:])
        finally:
            HydraConfig.instance().cfg = before
        return with_table(config)[0]  # a job is recognized by what its run directory holds


def identity(configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """The values of the settings that distinguish studies."""
    values = [
        {
            "recipe": str(config.recipe),
            "model": str(config.model.path or config.model.builtin),
            "dataset.train": str(config.dataset.train),
            "task": f"[{','.join(sorted(config.task))}]",
        }
        for config in configs
    ]
    return {key: sorted({one[key] for one in values}) for key in (values[0] if values else ())}


def validate_not_all_refused(planned: Sequence[Planned]) -> None:
    """Check that a job can run.

    Raises:
        UserError: All are refused; names the reason, or the first one's.
    """
    reasons = [one.refusal for one in planned if one.refusal is not None]
    if not reasons or len(reasons) < len(planned):
        return
    if len(set(reasons)) == 1:
        raise UserError(reasons[0])
    first = f"{planned[0].overrides}: {reasons[0]}"
    raise UserError(f"none of the {len(planned)} jobs can run; the first: {first}")
