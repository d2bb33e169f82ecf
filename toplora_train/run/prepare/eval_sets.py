"""The test rows of the chosen tasks, with what their evaluation needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import method_of
from toplora_train.config.methods import HEADS
from toplora_train.config.schema import DatasetSettings, EvaluationSettings, TaskSettings
from toplora_train.config.template import columns
from toplora_train.data.chat import as_conversations
from toplora_train.data.formats.completion import VERBATIM
from toplora_train.data.rows import COMPLETION, TEXT, RowSet, validate_answers
from toplora_train.data.sources import read_rows
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import find_method
from toplora_train.evaluation.metrics import find_metric
from toplora_train.evaluation.protocol import find_protocol
from toplora_train.run.prepare.parsing import own_parser, row_parser, template_of


def read_eval_sets(
    tasks: Mapping[str, TaskSettings],
    dataset: DatasetSettings,
    evaluation: EvaluationSettings,
    *,
    data_root: Path | None,
) -> list[EvalSet]:
    """Read every task's test rows, and ``dataset.test`` as one more task named ``test``.

    Raises:
        UserError: Rows are missing or not in the schema, a task is also called ``test``, or a task
            does not support the configured evaluation.
    """
    protocol = find_protocol(evaluation.protocol)
    sets = [
        EvalSet(
            name=name,
            kind=method_of(task, evaluation),
            rows=read_rows(
                task.source,
                data_root=data_root,
                subset=task.subset,
                split=task.split,
                revision=task.revision,
                limit=evaluation.limit,
                parse=row_parser(task),
                needs_answer=task.kind not in HEADS,
            ),
            extraction=task.extraction,
            extraction_key=f"task.{name}.extraction",
            choices=tuple(task.choices),
            response=task.response,
            max_new_tokens=task.max_new_tokens,
            version=task.version,
            protocol=protocol,
            option_score=evaluation.option_score,
            metric=task.metric,
            also=tuple(task.also),
            max_length=dataset.max_length,
            overflow=dataset.overflow,
            prompt=template_of(task),
        )
        for name, task in tasks.items()
    ]
    if dataset.test is not None:
        if "test" in tasks:
            raise UserError("dataset.test adds a task named 'test'; rename your task of that name")
        rows = read_rows(
            dataset.test,
            data_root=data_root,
            split="test",
            limit=evaluation.limit,
            parse=own_parser(dataset),
        )
        sets.append(
            EvalSet(
                name="test",
                kind="generate",
                rows=rows,
                extraction=dataset.test_extraction,
                extraction_key="dataset.test_extraction",
                max_new_tokens=dataset.test_max_new_tokens,
                protocol=protocol,
                option_score=evaluation.option_score,
                prompt=VERBATIM if _form(rows) == COMPLETION else template_of(dataset),
            )
        )
    for eval_set in sets:
        validate_answers(eval_set.rows.rows)
        for metric in (eval_set.metric, *eval_set.also):
            find_metric(metric)
        find_method(eval_set.kind).validate(eval_set)
    return sets


def _form(rows: RowSet) -> str:
    """The form of test rows, which is the same for all.

    Raises:
        UserError: They are plain text, which has no question, or in different forms.
    """
    first = rows.rows[0]
    for row in rows.rows:
        if row.form == TEXT:
            raise UserError(
                f"{row.where}: plain text has no question to answer; for the loss on text that is "
                "not trained on set dataset.validation_rows or forgetting.source, and leave "
                "dataset.test out"
            )
        if row.form != first.form:
            raise UserError(f"{first.where} and {row.where} have different formats; use one")
    return first.form


def match_training_form(eval_set: EvalSet, wording: str) -> EvalSet:
    """The test set in the form of the training rows: as a cloze, or in the chat template.

    If the training rows were conversations, its questions become a user's message in the model's
    chat template.

    Raises:
        UserError: It holds conversations, but the training rows did not; or it has a prompt of its
            own, which a chat template or a cloze would not use.
    """
    prepared = find_method(eval_set.kind).prepare(eval_set.rows)
    if prepared is not eval_set.rows:
        if eval_set.prompt is not None and "instruction" not in columns(eval_set.prompt):
            raise UserError(
                f"task.{eval_set.name}.prompt does not name the row's instruction, so it would "
                f"show the listed answers, which {eval_set.kind} leaves out; name {{instruction}}"
            )
        eval_set = replace(eval_set, rows=prepared)
    if wording == "chat":
        if eval_set.prompt is not None:
            raise UserError(
                f"task.{eval_set.name} has a prompt of its own, but the model was trained on "
                "conversations in its own chat template; leave the task's prompt out"
            )
        return replace(eval_set, rows=as_conversations(eval_set.rows))
    for row in eval_set.rows.rows:
        if row.messages:
            raise UserError(
                f"task.{eval_set.name}: {row.where} is a conversation, but the training rows are "
                "not, so the model would be evaluated with other prompts than in training; train "
                "on messages too, or give the test rows an instruction"
            )
    return eval_set


def prompt_mismatch(eval_set: EvalSet, learned: str | None) -> str | None:
    """What to say where a task's prompt is another than the one that is trained on; else None.

    Args:
        eval_set: A task whose answers a model writes.
        learned: The template of the prompts that are trained on; None for the project's own.
    """
    if eval_set.kind in HEADS or eval_set.prompt == learned:
        return None
    own = "the project's own prompt"
    return (
        f"task.{eval_set.name} is evaluated with {_quoted(eval_set.prompt) or own}, but the "
        f"training rows have {_quoted(learned) or own}"
    )


def validate_same_prompt(eval_sets: Sequence[EvalSet], learned: str | None) -> None:
    """Refuse to train on one prompt and evaluate with another.

    Raises:
        UserError: names the task and both prompts.
    """
    for eval_set in eval_sets:
        mismatch = prompt_mismatch(eval_set, learned)
        if mismatch is not None:
            raise UserError(
                f"{mismatch}; give both the same (dataset.prompt, task.{eval_set.name}.prompt), or "
                "evaluate the task after the run with toplora-eval, which reports the difference"
            )


def _quoted(template: str | None) -> str:
    return "" if template is None else json.dumps(template, ensure_ascii=False)
