"""A run's inputs, its model and its rows, and where each is, found without the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import own_split, training_sources
from toplora_train.config.schema import ModelSettings, RunConfig
from toplora_train.data.availability import SourceState, fetch, source_state
from toplora_train.data.published import published_rows
from toplora_train.models.availability import ModelState, model_state
from toplora_train.report.plan import RunInput
from toplora_train.run.prepare.objective import locate_base

TEST = "test"  # the task that dataset.test makes


@dataclass(frozen=True)
class RowsInput:
    """A source of rows that a run reads.

    Attributes:
        task: The task they test; None for training rows.
        source: The source as configured.
        subset: Of a hub data set.
        split: Of a hub data set or a folder.
        revision: Of a hub data set.
        limit: Read only the first ``limit`` rows.
        data_root: The local mirror, tried first.
        licence: As configured.
        state: Where the source is.
        weight: How often training rows are trained on in an epoch.
    """

    task: str | None
    source: str
    subset: str | None
    split: str
    revision: str | None
    limit: int | None
    data_root: Path | None
    licence: str | None
    state: SourceState
    weight: float = 1.0

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
        rows = self.state.rows or published_rows(self.source, subset=self.subset, split=self.split)
        if rows is None:
            return None
        return round(self.weight * (rows if self.limit is None else min(rows, self.limit)))

    def fetch_place(self) -> Path | None:
        """Download them and return their location; None if it is in the hub cache.

        Raises:
            UserError: They are not available.
        """
        return fetch(
            self.source,
            data_root=self.data_root,
            subset=self.subset,
            split=self.split,
            revision=self.revision,
        ).place


def find_rows(config: RunConfig) -> list[RowsInput]:
    """The sources of the training rows, then those of the test rows.

    Raises:
        UserError: A source has an unknown form, or ``data_root`` is not a folder.
    """
    dataset, tasks, limit = config.dataset, config.task, config.evaluation.limit
    data_root = Path(config.data_root) if config.data_root else None
    if data_root is not None and not data_root.is_dir():
        raise UserError(f"data_root={data_root} is not a folder; correct it or leave it out")
    split = own_split(config)
    training: list[tuple[str, str | None, str, str | None, str | None]]
    weights = [1.0]
    if split is not None:
        own = next(iter(tasks.values()))
        training = [(own.source, own.subset, split, own.revision, own.licence)]
    else:
        of_all = (dataset.subset, dataset.split, dataset.revision, None)
        training = [(source, *of_all) for source, _ in training_sources(dataset)]
        weights = [weight for _, weight in training_sources(dataset)]
    wanted: list[tuple[str | None, str, str | None, str, str | None, str | None, int | None]]
    wanted = [(None, *source, dataset.limit) for source in training]
    wanted += [
        (name, task.source, task.subset, task.split, task.revision, task.licence, limit)
        for name, task in tasks.items()
    ]
    if dataset.test is not None:
        wanted.append((TEST, dataset.test, None, "test", None, None, limit))
    text = config.forgetting
    if text.source is not None:
        of_text = (text.source, text.subset, text.split, text.revision, text.licence, text.limit)
        wanted.append(("forgetting", *of_text))
    return [
        RowsInput(
            task=task,
            source=source,
            subset=subset,
            split=split,
            revision=revision,
            limit=limit,
            data_root=data_root,
            licence=licence,
            state=source_state(
                source, data_root=data_root, subset=subset, split=split, revision=revision
            ),
            weight=weights[number] if number < len(weights) else 1.0,
        )
        for number, (task, source, subset, split, revision, licence, limit) in enumerate(wanted)
    ]


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
        part = ", ".join(filter(None, (one.subset, one.split if one.subset else None)))
        listed.append(
            RunInput(
                use=one.use,
                name=f"{one.source} ({part})" if part else one.source,
                at_hand=one.at_hand,
                place=None if state.place is None else str(state.place),
                url=state.url,
                size=state.size,
                licence=state.licence or one.licence,
                rows=one.published,
            )
        )
    return listed
