"""How the records of a run's files become rows; needs neither torch nor a tokenizer."""

from __future__ import annotations

from functools import partial

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task, own_split
from toplora_train.config.schema import DatasetSettings, RunConfig, TaskSettings
from toplora_train.config.template import over_fields
from toplora_train.data.labels import parse_labelled
from toplora_train.data.renamed import parse_renamed
from toplora_train.data.sources import RowParser


def training_parser(config: RunConfig) -> RowParser:
    """How a record to train on becomes a row: as a head's, as its task's, or as the data set's."""
    task = head_task(config) or _own_task(config)
    if task is None:
        return partial(own_parser(config.dataset), needs_output=True)
    return row_parser(task)


def learned_template(config: RunConfig) -> str | None:
    """The template of the prompts that are trained on; None for the project's own prompt."""
    return template_of(_own_task(config) or config.dataset)


def _own_task(config: RunConfig) -> TaskSettings | None:
    """The task whose own split is trained on; None where the data set names its rows."""
    if own_split(config) is None:
        return None
    return next(iter(config.task.values()), None)


def template_of(settings: TaskSettings | DatasetSettings) -> str | None:
    """The prompt template over the row's own fields, so that templates can be compared."""
    if settings.prompt is None:
        return None
    return over_fields(settings.prompt, _names(settings))


def _names(settings: TaskSettings | DatasetSettings) -> dict[str, str]:
    return {str(ours): theirs for ours, theirs in (settings.fields or {}).items()}


def own_parser(dataset: DatasetSettings) -> RowParser:
    """How a record of the user's files becomes a row.

    Raises:
        UserError: Both a format and field names are set.
    """
    for key in ("fields", "prompt"):
        if dataset.format is not None and getattr(dataset, key):
            raise UserError(
                f"dataset.format={dataset.format} defines the rows' fields, and so does "
                f"dataset.{key}; leave one of them out"
            )
    return partial(
        parse_renamed, names=_names(dataset), prompt=dataset.prompt, format=dataset.format
    )


def row_parser(task: TaskSettings) -> RowParser:
    """How a record of the task's files becomes a row."""
    if task.kind not in ("classify", "regress"):
        return partial(
            parse_renamed, names=_names(task), key=f"task.{task.name}", prompt=task.prompt
        )
    return partial(
        parse_labelled,
        text=task.text,
        text_pair=task.text_pair,
        image=task.image,
        label=task.label,
        choices=tuple(task.choices),
        named=task.label_names,
    )
