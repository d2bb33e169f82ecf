"""The test rows of the chosen tasks, with what is needed to ask and score them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.schema import DatasetSettings, TaskSettings
from toplora_train.data.rows import RowSet
from toplora_train.data.sources import read_rows


@dataclass(frozen=True)
class TestSet:
    """One task's rows and how they are asked; ``version`` is that of the task's definition."""

    __test__ = False  # pytest, this is no test

    name: str
    kind: str
    rows: RowSet
    extraction: str
    choices: tuple[str, ...]
    response: str | None
    max_new_tokens: int
    version: int


def read_test_sets(
    tasks: Mapping[str, TaskSettings],
    dataset: DatasetSettings,
    *,
    data_root: Path | None,
    limit: int | None,
) -> list[TestSet]:
    """Read every task's test rows, and ``dataset.test`` as one more task named ``test``.

    Raises:
        UserError: rows are missing or not in the schema, or a task is called ``test`` as well.
    """
    sets = [
        TestSet(
            name=name,
            kind=task.kind,
            rows=read_rows(
                task.source,
                data_root=data_root,
                subset=task.subset,
                split=task.split,
                revision=task.revision,
                limit=limit,
                needs_answer=True,
            ),
            extraction=task.extraction,
            choices=tuple(task.choices),
            response=task.response,
            max_new_tokens=task.max_new_tokens,
            version=task.version,
        )
        for name, task in tasks.items()
    ]
    if dataset.test is not None:
        if "test" in tasks:
            raise UserError("dataset.test makes a task named 'test'; rename the task of that name")
        sets.append(
            TestSet(
                name="test",
                kind="generate",
                rows=read_rows(dataset.test, data_root=data_root, split="test", limit=limit),
                extraction=dataset.test_extraction,
                choices=(),
                response=None,
                max_new_tokens=dataset.test_max_new_tokens,
                version=1,
            )
        )
    return sets
