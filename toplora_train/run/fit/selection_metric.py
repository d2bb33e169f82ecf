"""How an adapter is judged on the held-out rows of the train set while it is trained.

One with a head by its task's metric, at the end of every epoch. A language model by the loss on the
rows whenever that is measured; or, with ``trainer.select_by=metric``, by the share of the rows that
it then answers rightly, asked as the run's tasks are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import PeftModel

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.data.rows import RowSet, content_hash, validate_answers
from toplora_train.evaluation.answers import row_label
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import EvalContext, Method, find_method
from toplora_train.run.prepare.run_data import RunData, total_steps
from toplora_train.train.record import StepRecord

SelectionMetric = Callable[[PeftModel, StepRecord], float | None]
"""The score of a model after a step; None where it is not its turn."""

VALIDATION_LOSS = "validation loss"


def selects_by_loss(config: RunConfig) -> bool:
    """Whether the loss on the held-out rows decides: of a language model by default."""
    by = config.trainer.select_by
    return by == "loss" or (by is None and head_task(config) is None)


def find_selection_metric(
    config: RunConfig, run_data: RunData, autocast_dtype: torch.dtype | None
) -> tuple[SelectionMetric, str]:
    """The judge of a run, and what its score is called.

    Raises:
        UserError: the rows cannot be judged as is asked for.
    """
    task = head_task(config)
    if selects_by_loss(config):
        return validation_loss_of, VALIDATION_LOSS
    if task is not None:
        return head_metric(config, run_data, autocast_dtype), task.metric
    return answer_accuracy(config, run_data, autocast_dtype), "accuracy"


def validation_loss_of(_model: PeftModel, record: StepRecord) -> float | None:
    """Judge by the loss that the step was measured with."""
    return record.validation_loss


def head_metric(
    config: RunConfig, run_data: RunData, autocast_dtype: torch.dtype | None
) -> SelectionMetric:
    """Judge a head by its task's metric, where a step ends an epoch or the run."""
    task = head_task(config)
    last = total_steps(config, run_data.lengths)
    assert task is not None
    held_out = EvalSet(
        name="held out",
        kind=task.kind,
        rows=_row_set(run_data),
        choices=tuple(task.choices),
        metric=task.metric,
        max_length=config.dataset.max_length,
        overflow=config.dataset.overflow,
    )
    evaluate = _evaluation(config, run_data, held_out, autocast_dtype)

    def judge(model: PeftModel, record: StepRecord) -> float | None:
        if record.step != last and not float(record.epoch).is_integer():
            return None
        return evaluate(model)

    return judge


def answer_accuracy(
    config: RunConfig, run_data: RunData, autocast_dtype: torch.dtype | None
) -> SelectionMetric:
    """Judge a language model by its answers, where the loss is measured too.

    The rows are answered as the tasks are: as a cloze, or in writing, of which the tasks say what
    to read and how long it may be.

    Raises:
        UserError: the tasks are read in different ways, the model's tensors are shared out, or a
            row has no answer.
    """
    rows = run_data.validation_rows
    extraction = _only_extraction(config)
    if config.evaluation.protocol != "clean":
        raise UserError(
            f"trainer.select_by=metric asks in the clean protocol, not in evaluation.protocol="
            f"{config.evaluation.protocol}; use select_by=loss"
        )
    if config.launch.engine != "ddp" and config.launch.processes != 1:
        raise UserError(
            "trainer.select_by=metric lets the model answer while it is trained, which one that is "
            "shared out cannot; use launch=ddp, or select_by=loss"
        )
    validate_answers(rows)
    for row in rows:
        if not row_label(row, extraction):
            raise UserError(
                f"{row.where} is held out and has no 'answer', by which trainer.select_by=metric "
                "judges; add one to every row, or use select_by=loss"
            )

    # What was put into another form (a cloze) is answered in that form, everything else in writing:
    # a task's choices need not be those of the held-out rows.
    method = config.evaluation.multiple_choice or "generate"
    held_out = EvalSet(
        name="held out",
        kind=method if find_method(method).form != Method.form else "generate",
        rows=_row_set(run_data),
        extraction=extraction,
        max_new_tokens=max(task.max_new_tokens for task in config.task.values()),
        option_score=config.evaluation.option_score,
    )
    evaluate = _evaluation(config, run_data, held_out, autocast_dtype)

    def judge(model: PeftModel, record: StepRecord) -> float | None:
        if record.validation_loss is None:
            return None
        return evaluate(model)

    return judge


def _evaluation(
    config: RunConfig, run_data: RunData, held_out: EvalSet, autocast_dtype: torch.dtype | None
) -> Callable[[PeftModel], float]:
    """The score of a model on the held-out rows."""
    context = EvalContext(config.evaluation.batch_size, autocast_dtype)

    def evaluate(model: PeftModel) -> float:
        method = find_method(held_out.kind)
        score, _ = method.evaluate(model, run_data.tokenizer, held_out, context)
        return score.value

    return evaluate


def _row_set(run_data: RunData) -> RowSet:
    rows = tuple(run_data.validation_rows)
    return RowSet(rows, run_data.rows.source, content_hash(rows))


def _only_extraction(config: RunConfig) -> str:
    found = sorted({task.extraction for task in config.task.values()})
    if len(found) == 1:
        return found[0]
    raise UserError(
        "trainer.select_by=metric reads the held-out rows' answers as the tasks' are read, and "
        f"there {'is no task' if not found else 'are several ways: ' + ', '.join(found)}; use "
        "select_by=loss, or tasks of one kind"
    )
