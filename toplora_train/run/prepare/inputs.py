"""A run's inputs, its model and its rows, and where each is, found without the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import own_split, training_sources
from toplora_train.config.schema import (
    DatasetSettings,
    ForgettingSettings,
    ModelSettings,
    RunConfig,
    TaskSettings,
)
from toplora_train.data.availability import SourceState, fetch, source_state
from toplora_train.data.hub import Source
from toplora_train.models.availability import ModelState, model_state
from toplora_train.report.plan import RunInput
from toplora_train.run.prepare.objective import locate_base

TEST = "test"  # the task that dataset.test makes


@dataclass(frozen=True)
class RowsInput:
    """A source of rows that a run reads.

    Attributes:
        task: The task they test; None for training rows.
        where: The source as configured.
        limit: Read only the first ``limit`` rows.
        licence: As configured.
        weight: How often training rows are trained on in an epoch.
    """

    task: str | None
    where: Source
    limit: int | None
    licence: str | None = None
    weight: float = 1.0

    @cached_property
    def state(self) -> SourceState:
        """Where the source is."""
        return source_state(self.where)

    @property
    def use(self) -> str:
        """What the rows are for."""
        return "training rows" if self.task is None else f"test rows of {self.task}"

    @property
    def at_hand(self) -> bool:
        """Whether they can be read without a download."""
        return self.state.state in ("local", "cached")

    @property
    def published(self) -> int | None:
        """The number of rows, if known without reading them."""
        rows = self.state.rows
        if rows is None:
            return None
        return round(self.weight * (rows if self.limit is None else min(rows, self.limit)))

    def fetch_place(self) -> Path | None:
        """Download them and return their location; None if it is in the hub cache.

        Raises:
            UserError: They are not available.
        """
        return fetch(self.where).place


def find_rows(config: RunConfig) -> list[RowsInput]:
    """The sources of the training rows, then those of the test rows.

    Raises:
        UserError: A source has an unknown form, or ``data_root`` is not a folder.
    """
    dataset, tasks, limit = config.dataset, config.task, config.evaluation.limit
    data_root = config.mirror
    if data_root is not None and not data_root.is_dir():
        raise UserError(f"data_root={data_root} is not a folder; correct it or leave it out")

    def read(
        task: str | None,
        settings: TaskSettings | DatasetSettings | ForgettingSettings,
        limit: int | None,
        *,
        source: str | None = None,
        weight: float = 1.0,
        **other: Any,
    ) -> RowsInput:
        name = source or str(getattr(settings, "source", None))
        where = Source(name, settings.subset, settings.split, settings.revision, data_root)
        licence = getattr(settings, "licence", None)
        return RowsInput(task, replace(where, **other), limit, licence, weight)

    split = own_split(config)
    if split is not None:
        found = [read(None, next(iter(tasks.values())), dataset.limit, split=split)]
    else:
        found = [
            read(None, dataset, dataset.limit, source=source, weight=weight)
            for source, weight in training_sources(dataset)
        ]
    found += [read(name, task, limit) for name, task in tasks.items()]
    if dataset.test is not None:
        test = Source(dataset.test, split="test", data_root=data_root)
        found.append(RowsInput(TEST, test, limit))
    if config.forgetting.source is not None:
        found.append(read("forgetting", config.forgetting, config.forgetting.limit))
    return found


def find_model(model: ModelSettings) -> ModelState:
    """The base model.

    Raises:
        UserError: ``model.path`` is neither a folder with a model nor a well-formed hub id.
    """
    state = model_state(
        path=model.path, revision=model.revision, package=model.package, builtin=model.builtin
    )
    if state.location is None:
        return state
    return replace(state, location=replace(state.location, trusted=model.trust_remote_code))


def fetch_model(model: ModelSettings, *, weights: bool) -> str:
    """Download the base model, with or without its weights, and return its location.

    Raises:
        UserError: It is not available.
    """
    found = locate_base(model, weights=weights)
    return "made in code" if found.folder is None else str(found.folder)


def as_list(model: ModelState, rows: list[RowsInput]) -> list[RunInput]:
    """The model and the sources of rows as a plan shows them."""
    listed = [
        RunInput(
            use="model",
            name=model.model,
            at_hand=model.state != "to_fetch",
            place=model.place,
            url=model.url,
            size=model.size,
            licence=model.licence,
            gated=model.gated,
        )
    ]
    for one in rows:
        state = one.state
        where = one.where
        part = f" ({where.subset}, {where.split})" if where.subset else ""
        listed.append(
            RunInput(
                use=one.use,
                name=f"{where.name}{part}",
                at_hand=one.at_hand,
                place=None if state.place is None else str(state.place),
                url=state.url,
                size=state.size,
                licence=state.licence or one.licence,
                rows=one.published,
            )
        )
    return listed
