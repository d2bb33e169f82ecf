"""Ask a model the test sets, keeping every prediction on disk as it comes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.data.prompts import PROMPT_VERSION
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import EvalContext, find_method, protocol_of
from toplora_train.evaluation.predictions import (
    PredictionFile,
    finished_predictions,
    read_predictions,
    unfinished_predictions,
)
from toplora_train.evaluation.ranks import ALONE, Ranks
from toplora_train.evaluation.run_evaluation import EvalProgress, Score
from toplora_train.report.display import EvaluationDisplay
from toplora_train.report.numbers import (
    counted,
    percent,
    percent_interval,
    readable_seconds,
    undefined,
)

log = logging.getLogger(__name__)


def score_eval_sets(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    eval_sets: Sequence[EvalSet],
    *,
    who: str,
    weights: str,
    folder: Path,
    suffix: str,
    batch_size: int,
    autocast_dtype: torch.dtype | None,
    reuse: bool,
    console: Console,
    ranks: Ranks = ALONE,
) -> dict[str, Score]:
    """Score every test set; predictions go to ``folder/NAME{suffix}.jsonl``.

    An interrupted evaluation goes on from the predictions it left, of this task or of those before.

    Args:
        model: the model to ask.
        tokenizer: its tokenizer.
        eval_sets: what to ask.
        who: whose answers they are, for people ("base", "tuned").
        weights: what tells these weights from others, so that no other model's answers are reused.
        folder: where predictions are kept.
        suffix: what the files' names end with before ``.jsonl``.
        batch_size: rows per forward pass.
        autocast_dtype: compute under autocast in this number format.
        reuse: whether a finished file, known to be of these weights, is taken as it is.
        console: where progress is shown.
        ranks: this process among those that share the rows and all get the scores.
    """
    scores = {}
    for eval_set in eval_sets:
        path = folder / f"{eval_set.name}{suffix}.jsonl"
        belongs_to = _fingerprint(weights, eval_set)
        whole = (
            read_predictions(path)
            if reuse and path.is_file()
            else finished_predictions(path, belongs_to=belongs_to)
        )
        left = {prediction.id: prediction for prediction in whole}
        left |= unfinished_predictions(path, belongs_to=belongs_to)
        # The first process's view counts in all, and nobody writes before it has looked.
        finished = ranks.broadcast(left)
        with (
            PredictionFile(path, belongs_to=belongs_to, rank=ranks.rank) as file,
            EvaluationDisplay(
                f"{who} {eval_set.name}{ranks}",
                len(eval_set.rows.rows),
                console=console,
                numbers=eval_set.kind == "regress",
            ) as display,
        ):
            score, predictions = find_method(eval_set.kind).evaluate(
                model,
                tokenizer,
                eval_set,
                EvalContext(
                    batch_size,
                    autocast_dtype,
                    EvalProgress(finished, file.add, display.update, ranks),
                ),
            )
            log.info(
                "%s: answered %d of the %d rows here", eval_set.name, file.added, len(predictions)
            )
            if ranks.first:
                file.finish(predictions)
            display.message(f"{who} on {eval_set.name}: {in_words(score)}")
        scores[eval_set.name] = score
    return scores


def in_words(score: Score) -> str:
    """A score with its interval, the rows and the time, in a line."""
    rows = f"{counted(score.n, 'row')}, {readable_seconds(score.seconds)}"
    if undefined(score.value, score.ci95, score.metric):
        return f"{score.metric} undefined, as the labels or the answers are all the same, on {rows}"
    return (
        f"{score.metric} {percent(score.value)} "
        f"(95 % interval {percent_interval(score.ci95)}) on {rows}"
    )


def _fingerprint(weights: str, eval_set: EvalSet) -> str:
    how = [eval_set.protocol.name, PROMPT_VERSION, protocol_of(eval_set)]
    what = [weights, eval_set.name, *how]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
