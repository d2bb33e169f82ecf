"""One's own labelled texts or images as a task: ``dataset.label`` and ``text`` or ``image``.

The labels decide the kind. The task is named ``test`` and written to the run's ``config.yaml`` like
any other, with the classes that were found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import training_sources, validate_tasks
from toplora_train.config.schema import RunConfig, TaskSettings, WeightedSource
from toplora_train.data.fields import kind as kind_of
from toplora_train.data.fields import lacks, number, shown
from toplora_train.data.labels import label_name
from toplora_train.data.parts import HELD_OUT, REST_OF, part
from toplora_train.data.rows import Row
from toplora_train.data.sources import read_rows
from toplora_train.data.tables import ClassNumber

NAME = "test"
MOST_NUMBERS, MOST_CLASSES = 20, 100  # distinct values that are classes


class NotFinite(str):
    """A text that reads as NaN or infinity, with its place; among words it is one of them."""

    place: str


def with_table(config: RunConfig) -> tuple[RunConfig, str | None]:
    """The run with its table as a task, and what was found in a sentence.

    A run without ``dataset.text``, ``image`` and ``label`` is returned unchanged.

    Raises:
        UserError: The settings or the table cannot make a task; names the column, or the row.
    """
    dataset = config.dataset
    given = (dataset.text, dataset.image, dataset.label)
    if dataset.name != "table" and given == (None, None, None):
        return config, None
    texts = [dataset.text] if isinstance(dataset.text, str) else dataset.text or []
    _validate_settings(config, texts)
    train, tests = training_sources(dataset), [dataset.test] if dataset.test else []
    of_hub = {"subset": dataset.subset, "revision": dataset.revision, "split": dataset.split}
    labels = _labels(config, [source for source, _ in train], **of_hub)
    labels += _labels(config, tests, split="test")
    kind, choices = _kind_of(labels, str(dataset.label))
    held_out = ""
    source, split = dataset.test, "test"
    if source is None:
        rows = len(labels)
        source, split = f"{HELD_OUT}{train[0][0]}", dataset.split
        held_out = (
            f"; {len(part(range(rows), HELD_OUT, train[0][0]))} of the {rows} rows, drawn at "
            "random, are test rows and not trained on"
        )
        train = [(f"{REST_OF}{train[0][0]}", train[0][1])]
    task = TaskSettings(
        name=NAME,
        source=source,
        subset=None if dataset.test else dataset.subset,
        revision=None if dataset.test else dataset.revision,
        split=split,
        kind=kind,
        text=texts[0] if texts else "text",
        text_pair=texts[1] if len(texts) > 1 else None,
        image=dataset.image,
        label=str(dataset.label),
        choices=choices,
        label_names=kind == "classify",
        metric="accuracy" if kind == "classify" else "pearson",
        also=["macro_f1"] if kind == "classify" else ["spearman"],
    )
    own = replace(
        dataset,
        train=train[0][0]
        if len(train) == 1 and train[0][1] == 1
        else [WeightedSource(path, weight) for path, weight in train],
        test=None,
        text=None,
        image=None,
        label=None,
    )
    found = (
        f"classification into {len(choices)} classes ({', '.join(choices)})"
        if choices
        else "regression, as the labels are numbers"
    )
    config = replace(config, dataset=own, task={NAME: task})
    validate_tasks(config)
    return config, f"{dataset.label} in {len(labels)} rows: {found}{held_out}"


def _validate_settings(config: RunConfig, texts: Sequence[str]) -> None:
    dataset = config.dataset
    if bool(texts) == (dataset.image is not None) or len(texts) > 2 or dataset.label is None:
        raise UserError(
            "a table needs the column of its text, or two of a pair, or that of its image, and "
            "that of the label: dataset.text=COLUMN, dataset.text=[COLUMN,COLUMN] or "
            "dataset.image=COLUMN, and dataset.label=COLUMN"
        )
    if not training_sources(dataset):
        raise UserError("no training rows were given; set dataset.train to a folder or file")
    if config.task:
        raise UserError(
            f"dataset.text, image and label describe the only task of a run, but task="
            f"[{','.join(config.task)}] is chosen; leave it out"
        )
    for key in ("fields", "prompt", "format", "learn"):
        if getattr(dataset, key) not in (None, "last"):
            raise UserError(f"dataset.{key} has no effect on a table; leave it out")
    if dataset.test is None and len(training_sources(dataset)) > 1:
        raise UserError(
            "of several training sources no test rows are held out; give them: dataset.test=FILE"
        )


def _labels(config: RunConfig, sources: Iterable[str], **of_hub: str | None) -> list[object]:
    """The labels of all rows, in their order.

    Raises:
        UserError: A row has no label, or the file has no such column.
    """
    label, found = str(config.dataset.label), []

    def keep(fields: Any, *, place: str, default_id: str) -> Row:
        value = fields.get(label) if isinstance(fields, dict) else None
        if value is None or value == "":
            reason = lacks(fields, label) if isinstance(fields, dict) else "is no row of a table"
            raise UserError(f"{place}: {reason}; dataset.label={label} needs it in every row")
        if isinstance(value, list | dict):
            raise UserError(f"{place}: '{label}' is {shown(value)}, neither a class nor a number")
        if isinstance(value, ClassNumber) and not value.name:
            raise UserError(f"{place}: '{label}' is {value}, a hidden label; choose another split")
        if isinstance(value, float | str) and _is_not_finite(value):
            if isinstance(value, float):
                raise UserError(
                    f"{place}: '{label}' is {kind_of(value)}, neither a class nor a number; "
                    "correct it or remove the row"
                )
            value = NotFinite(value)
            value.place = place
        found.append(value)
        return Row(default_id, "", "", "", "")

    for source in sources:
        read_rows(source, data_root=config.mirror, parse=keep, **of_hub)  # type: ignore[arg-type]  # names of its own
    return found


def _kind_of(labels: Sequence[object], column: str) -> tuple[str, list[str]]:
    """``classify`` with the names of the classes, or ``regress`` without.

    Raises:
        UserError: There is one class, or too many, or a NaN among numbers.
    """
    counts = Counter(map(label_name, labels))
    declared = {one.name: int(one) for one in labels if isinstance(one, ClassNumber)}
    numbers = [None if declared else _number(name) for name in counts]
    odd = [one for one in labels if isinstance(one, NotFinite)]
    if odd and numbers.count(None) == len({*odd}) < len(counts):
        raise UserError(
            f"{odd[0].place}: '{column}' is {shown(odd[0])}, but the labels of all other rows are "
            "numbers; correct it or remove the row"
        )
    if None not in numbers and not any(isinstance(label, bool) for label in labels):
        whole = all(value == int(value) for value in numbers if value is not None)
        if not whole or len(counts) > MOST_NUMBERS:
            return "regress", []
    if len(counts) == 1:
        raise UserError(
            f"dataset.label={column}: all {len(labels)} rows have the label {next(iter(counts))}; "
            "name another column, or add rows of other classes"
        )
    if declared and (others := sorted(counts.keys() - declared)):
        raise UserError(
            f"dataset.label={column}: '{others[0]}' is none of the classes that the data set "
            f"names ({', '.join(declared)}); write the same names in every source"
        )
    numerous = len(counts) > MOST_CLASSES or (len(counts) > 20 and 2 * len(counts) > len(labels))
    if numerous and not declared:
        raise UserError(
            f"dataset.label={column}: {len(counts)} different labels in {len(labels)} rows are not "
            "classes; name another column, or describe the task in a file (docs/data.md)"
        )
    ordered = sorted(counts) if None in numbers else sorted(counts, key=lambda name: float(name))
    return "classify", sorted(ordered, key=lambda name: declared.get(name, 0))


def _is_not_finite(value: float | str) -> bool:
    try:
        return not math.isfinite(float(value))
    except ValueError:
        return False


def _number(name: str) -> float | None:
    try:
        return number({"": name}, "", "")
    except UserError:
        return None
