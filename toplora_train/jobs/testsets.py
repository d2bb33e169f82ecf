"""The test rows of the chosen tasks, with what is needed to ask and score them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import HEADS, chooses
from toplora_train.config.schema import DatasetSettings, EvaluationSettings, TaskSettings
from toplora_train.data.chat import as_conversations
from toplora_train.data.cloze import as_cloze
from toplora_train.data.rows import RowSet
from toplora_train.data.sources import read_rows
from toplora_train.evaluation.protocol import Protocol, find_protocol
from toplora_train.jobs.objective import own_parser, row_parser


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
    protocol: Protocol
    option_score: str
    metric: str = "accuracy"
    also: tuple[str, ...] = ()
    max_length: int = 0  # of a row that a head is asked about, in tokens
    overflow: str = "error"


def read_test_sets(
    tasks: Mapping[str, TaskSettings],
    dataset: DatasetSettings,
    evaluation: EvaluationSettings,
    *,
    data_root: Path | None,
) -> list[TestSet]:
    """Read every task's test rows, and ``dataset.test`` as one more task named ``test``.

    Raises:
        UserError: rows are missing or not in the schema, a task is called ``test`` as well, or a
            task cannot be asked in the way that is asked for.
    """
    protocol = find_protocol(evaluation.protocol)
    sets = [
        TestSet(
            name=name,
            kind=_kind(task, evaluation),
            rows=read_rows(
                task.source,
                data_root=data_root,
                subset=task.subset,
                split=task.split,
                revision=task.revision,
                limit=evaluation.limit,
                **_row_reading(task),
            ),
            extraction=task.extraction,
            choices=tuple(task.choices),
            response=task.response,
            max_new_tokens=task.max_new_tokens,
            version=task.version,
            protocol=protocol,
            option_score=_option_score(_kind(task, evaluation), evaluation),
            metric=task.metric,
            also=tuple(task.also),
            max_length=dataset.max_length,
            overflow=dataset.overflow,
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
                rows=read_rows(
                    dataset.test,
                    data_root=data_root,
                    split="test",
                    limit=evaluation.limit,
                    parse=own_parser(dataset),
                ),
                extraction=dataset.test_extraction,
                choices=(),
                response=None,
                max_new_tokens=dataset.test_max_new_tokens,
                version=1,
                protocol=protocol,
                option_score=_option_score("generate", evaluation),
            )
        )
    for test_set in sets:
        _refuse_unaskable(test_set)
    return sets


def asked_as_learned(test_set: TestSet, wording: str) -> TestSet:
    """The test set as its questions are put: a cloze as one, all in the wording that was learned.

    Where the training rows were conversations, its questions are asked as a user's message, in the
    model's own chat template.

    Raises:
        UserError: it holds conversations, and the training rows did not.
    """
    if test_set.kind == "cloze":
        test_set = replace(test_set, rows=as_cloze(test_set.rows))
    if wording == "chat":
        return replace(test_set, rows=as_conversations(test_set.rows))
    for row in test_set.rows.rows:
        if row.messages:
            raise UserError(
                f"task.{test_set.name}: row '{row.id}' is a conversation, but what is trained on "
                "is not, so the model would be asked in other words than it learned; train on "
                "messages too, or give the test rows an instruction"
            )
    return test_set


def asked_how(test_set: TestSet) -> dict[str, Any]:
    """What decides a model's answers and their judgement, rows and prompts apart."""
    how: dict[str, Any] = {
        "kind": test_set.kind,
        "extraction": test_set.extraction,
        "choices": list(test_set.choices),
        "version": test_set.version,
    }
    if test_set.kind in HEADS:
        del how["extraction"]
        return how | {
            "metric": test_set.metric,
            "max_length": test_set.max_length,
            "overflow": test_set.overflow,
        }
    if test_set.kind == "cloze":
        return how | {"option_score": test_set.option_score}
    if test_set.kind == "choose":
        return how | {"response": test_set.response, "option_score": test_set.option_score}
    # How an answer is found (the response, which may prove it) does not decide what it is.
    return how | {"max_new_tokens": test_set.protocol.max_new_tokens or test_set.max_new_tokens}


def _row_reading(task: TaskSettings) -> dict[str, Any]:
    """How the records of a test file become rows; each has to have its answer."""
    return {"parse": row_parser(task)} if task.kind in HEADS else {"needs_answer": True}


def _kind(task: TaskSettings, evaluation: EvaluationSettings) -> str:
    return evaluation.multiple_choice or task.kind if chooses(task) else task.kind


def _option_score(kind: str, evaluation: EvaluationSettings) -> str:
    return evaluation.option_score or ("mean" if kind == "cloze" else "sum")


def _refuse_unaskable(test_set: TestSet) -> None:
    if test_set.kind == "cloze":
        _refuse_to_choose(test_set)
    if test_set.kind == "choose":
        if not test_set.choices or "{answer}" not in (test_set.response or ""):
            raise UserError(
                f"task.{test_set.name}: kind choose needs choices and a response that holds "
                "{answer}, such as 'the correct answer is {answer}'"
            )
        _refuse_to_choose(test_set)
    if test_set.kind == "generate":
        # Says in time that the protocol has no rule for such answers.
        test_set.protocol.extract("", test_set.extraction, test_set.choices)


def _refuse_to_choose(test_set: TestSet) -> None:
    if not test_set.protocol.chooses:
        raise UserError(
            f"evaluation.protocol={test_set.protocol.name} generates its answers, and task."
            f"{test_set.name} is to choose; use protocol=clean, or leave multiple_choice out"
        )
