"""Evaluation sets of given rows, with the task's settings as keywords."""

from toplora_train.data.rows import RowSet
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import EvalContext
from toplora_train.evaluation.run_evaluation import FRESH


def eval_set(rows, kind="generate", **task):
    task |= {key: tuple(task[key]) for key in ("choices", "also") if key in task}
    return EvalSet("t", kind, RowSet(tuple(rows), "made here", "0"), **task)


def evaluated_by(method, model, tokenizer, rows, *, batch_size, progress=FRESH, **task):
    context = EvalContext(batch_size, None, progress)
    return method.evaluate(model, tokenizer, eval_set(rows, **task), context)
