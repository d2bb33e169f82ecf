"""Evaluate a model on the evaluation sets; every prediction is written as it is made."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
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
    unfinished_predictions,
)
from toplora_train.evaluation.ranks import ALONE, Ranks
from toplora_train.evaluation.run_evaluation import EvalProgress, Score
from toplora_train.evaluation.validate import uninvoked
from toplora_train.models.sharded import in_step
from toplora_train.report.display import EvaluationDisplay, say
from toplora_train.report.numbers import (
    counted,
    percent,
    percent_interval,
    readable_seconds,
    undefined,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scorer:
    """Scores models on the same evaluation sets, in the same way.

    Attributes:
        tokenizer: The models' tokenizer.
        eval_sets: What they are scored on.
        folder: Where predictions are kept.
        batch_size: Rows per forward pass.
        autocast_dtype: Compute under autocast in this number format; None: in the weights' own.
        console: Where progress is shown.
        ranks: This process among those that share the rows; all of them get the scores.
    """

    tokenizer: PreTrainedTokenizerBase
    eval_sets: Sequence[EvalSet]
    folder: Path
    batch_size: int
    autocast_dtype: torch.dtype | None
    console: Console
    ranks: Ranks = ALONE

    def score(
        self, model: nn.Module, who: str, *, weights: str, suffix: str = ""
    ) -> dict[str, Score]:
        """Score every evaluation set; predictions go to ``folder/NAME{suffix}.jsonl``.

        An interrupted evaluation resumes from the predictions it left, and a finished one of the
        same weights and settings is not repeated.

        Args:
            model: The model to evaluate.
            who: Whose answers they are, for the terminal ("base", "tuned").
            weights: Identifies the weights, so that no other model's answers are reused.
            suffix: What the files' names end with before ``.jsonl``.
        """
        scores = {}
        for eval_set in self.eval_sets:
            path = self.folder / f"{eval_set.name}{suffix}.jsonl"
            belongs_to = _fingerprint(weights, eval_set)
            whole = finished_predictions(path, belongs_to=belongs_to)
            left = {prediction.id: prediction for prediction in whole}
            left |= unfinished_predictions(path, belongs_to=belongs_to)
            # Rank 0's view counts in all processes, and nobody writes before it has looked.
            finished = self.ranks.broadcast(left)
            with (
                PredictionFile(path, belongs_to=belongs_to, rank=self.ranks.rank) as file,
                EvaluationDisplay(
                    f"{who} {eval_set.name}{self.ranks}",
                    len(eval_set.rows.rows),
                    console=self.console,
                    numbers=eval_set.kind == "regress",
                ) as display,
            ):
                progress = EvalProgress(
                    finished, file.add, display.update, self.ranks, in_step(model)
                )
                score, predictions = find_method(eval_set.kind).evaluate(
                    model,
                    self.tokenizer,
                    eval_set,
                    EvalContext(self.batch_size, self.autocast_dtype, progress),
                )
                log.info(
                    "%s: %d of the %d rows answered here",
                    eval_set.name,
                    file.added,
                    len(predictions),
                )
                if self.ranks.first:
                    file.finish(predictions)
                display.message(f"{who} on {eval_set.name}: {in_words(score)}")
            asleep = uninvoked(model, self.tokenizer, [one.prompt for one in predictions])
            if asleep is not None:
                log.warning("%s: %s", eval_set.name, asleep)
                say(self.console, f"warning: {eval_set.name}: {asleep}")
            scores[eval_set.name] = score
        return scores


def in_words(score: Score) -> str:
    """A score with its interval, the rows and the time, in a line."""
    rows = f"{counted(score.n, 'row')}, {readable_seconds(score.seconds)}"
    if score.cut_off:
        rows += f"; {counted(score.cut_off, 'answer')} cut off at max_new_tokens"
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
