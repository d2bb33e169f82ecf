"""The metric for model selection on the held-out rows of the train set.

With a head it is the task's metric, at the end of every epoch. For a language model it is the
validation loss; or, with ``trainer.select_by=metric``, the accuracy of its answers to these rows,
evaluated like the run's tasks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import PeftModel

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task, selects_by_loss
from toplora_train.config.schema import RunConfig
from toplora_train.data.rows import RowSet, content_hash, validate_answers
from toplora_train.evaluation.answers import row_label
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import EvalContext, Method, find_method
from toplora_train.evaluation.run_evaluation import EvalProgress
from toplora_train.models.sharded import in_step
from toplora_train.report.held_out import VALIDATION_LOSS
from toplora_train.run.prepare.run_data import RunData, total_steps, training_method
from toplora_train.train.record import StepRecord

SelectionMetric = Callable[[PeftModel, StepRecord], float | None]
"""The score of a model after a step; None where no evaluation is due."""


def find_selection_metric(
    config: RunConfig, run_data: RunData, autocast_dtype: torch.dtype | None
) -> tuple[SelectionMetric, str]:
    """The selection metric of a run, and its name.

    Raises:
        UserError: The held-out rows cannot be scored by it.
    """
    task = head_task(config)
    if selects_by_loss(config):
        return validation_loss_of, VALIDATION_LOSS
    if task is not None:
        return head_metric(config, run_data, autocast_dtype), task.metric
    return answer_accuracy(config, run_data, autocast_dtype), "accuracy"


def validation_loss_of(_model: PeftModel, record: StepRecord) -> float | None:
    """The step's validation loss, if it was measured."""
    return record.validation_loss


def head_metric(
    config: RunConfig, run_data: RunData, autocast_dtype: torch.dtype | None
) -> SelectionMetric:
    """The task's metric of a model with a head, where a step ends an epoch or the run."""
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

    def metric(model: PeftModel, record: StepRecord) -> float | None:
        if record.step != last and not float(record.epoch).is_integer():
            return None
        return evaluate(model)

    return metric


def answer_accuracy(
    config: RunConfig, run_data: RunData, autocast_dtype: torch.dtype | None
) -> SelectionMetric:
    """The accuracy of a language model's answers, whenever the validation loss is measured.

    The rows are evaluated like the tasks: as a cloze, or generated, with the tasks' extraction and
    maximum length.

    Raises:
        UserError: The tasks use different extractions, the adapter is sharded, or a row has no
            answer.
    """
    rows = run_data.validation_rows
    extraction = _only_extraction(config)
    if config.evaluation.protocol != "clean":
        raise UserError(
            f"trainer.select_by=metric works with the clean protocol only, not with "
            f"evaluation.protocol={config.evaluation.protocol}; use select_by=loss"
        )
    if config.launch.engine == "zero2" and config.launch.processes != 1:
        raise UserError(
            "trainer.select_by=metric generates answers during training, which a model with a "
            "sharded adapter cannot; use launch=ddp, launch=fsdp2, or select_by=loss"
        )
    validate_answers(rows)
    for row in rows:
        if not row_label(row, extraction):
            raise UserError(
                f"{row.where} is held out but has no 'answer', which trainer.select_by=metric "
                "needs; add one to every row, or use select_by=loss"
            )

    # Rows that were converted to another form (a cloze) are evaluated in it, all others generate:
    # the held-out rows may have other choices than the tasks.
    method = training_method(config)
    held_out = EvalSet(
        name="held out",
        kind=method if find_method(method).form != Method.form else "generate",
        rows=_row_set(run_data),
        extraction=extraction,
        max_new_tokens=max(task.max_new_tokens for task in config.task.values()),
        option_score=config.evaluation.option_score,
    )
    evaluate = _evaluation(config, run_data, held_out, autocast_dtype)

    def metric(model: PeftModel, record: StepRecord) -> float | None:
        if record.validation_loss is None:
            return None
        return evaluate(model)

    return metric


def _evaluation(
    config: RunConfig, run_data: RunData, held_out: EvalSet, autocast_dtype: torch.dtype | None
) -> Callable[[PeftModel], float]:
    """The score of a model on the held-out rows."""

    def evaluate(model: PeftModel) -> float:
        method = find_method(held_out.kind)
        progress = EvalProgress(in_step=in_step(model))
        context = EvalContext(config.evaluation.batch_size, autocast_dtype, progress)
        score, _ = method.evaluate(model, run_data.tokenizer, held_out, context)
        return score.value

    return evaluate


def _row_set(run_data: RunData) -> RowSet:
    rows = run_data.validation_rows
    return RowSet(rows, run_data.rows.source, content_hash(rows))


def _only_extraction(config: RunConfig) -> str:
    found = sorted({task.extraction for task in config.task.values()})
    if len(found) == 1:
        return found[0]
    raise UserError(
        "trainer.select_by=metric extracts answers as the tasks do, but there "
        f"{'is no task' if not found else 'are several extractions: ' + ', '.join(found)}; use "
        "select_by=loss, or tasks with one extraction"
    )
