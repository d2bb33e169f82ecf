r"""Multiple choice by the mean token log-likelihood of each answer's text.

.. math:: \frac{1}{n} \sum_{i=1}^{n} \log p(t_i \mid \text{question}, t_{<i})

The answers are not listed in the question (see :mod:`toplora_train.data.cloze`). Without the mean
the shortest answer would usually win. EOS is not scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.data.cloze import as_cloze
from toplora_train.data.rows import Row, RowSet
from toplora_train.evaluation import forward
from toplora_train.evaluation.decoding.answer_tree import UnsharedError, answer_logits
from toplora_train.evaluation.decoding.prefix import (
    Prefix,
    common_prefix,
    compute_prefix,
    shares_prompts,
)
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods import base
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.run_evaluation import Answer, Score, Scores


class Cloze(base.Method):
    """Asks without listing the options; a prediction's ``output`` is the chosen answer's text."""

    title = "cloze, by the likelihood of the words"
    form = "as a cloze"

    def prepare(self, rows: RowSet) -> RowSet:
        """The question alone, with each answer's text in a row's ``options``."""
        return as_cloze(rows)

    def validate(self, eval_set: EvalSet) -> None:
        """Refuse a protocol that only generates answers."""
        base.validate_protocol(eval_set)

    def identity(self, eval_set: EvalSet) -> dict[str, Any]:
        """The choices, and how their texts are scored."""
        return base.prompt_identity(eval_set, option_score=eval_set.option_score or "mean")

    def validate_rows(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet
    ) -> None:
        """Refuse rows whose answer is not an option, and prompts longer than the model allows."""
        _prompts(model, tokenizer, eval_set)

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        eval_set: EvalSet,
        context: base.EvalContext,
    ) -> tuple[Score, list[Prediction]]:
        """Score the text of every option; the label of the best one is the answer."""
        rows = eval_set.rows.rows
        texts, prompts, answers = _prompts(model, tokenizer, eval_set)
        per_token = eval_set.option_score != "sum"
        common = common_prefix(prompts)

        def best(row: Row, scores: Scores) -> tuple[str, str]:
            return max(row.options, key=lambda option: scores[option[0]])

        def answer(pending: list[int]) -> Iterator[Answer]:
            for place, likelihoods in log_likelihoods(
                model,
                tokenizer,
                [prompts[index] for index in pending],
                [answers[index] for index in pending],
                batch_size=context.batch_size,
                common=common,
                autocast_dtype=context.autocast_dtype,
            ):
                row = rows[pending[place]]
                lengths = [len(ids) if per_token else 1 for ids in answers[pending[place]]]
                scores = {
                    label: round(value / length, 6)
                    for (label, _), value, length in zip(
                        row.options, likelihoods, lengths, strict=True
                    )
                }
                yield Answer(place, best(row, scores)[1], scores)

        def score_row(index: int, _output: str, scores: Scores | None) -> Prediction:
            assert scores is not None  # reused predictions have the same identity, so scores too
            row = rows[index]
            label, words = best(row, scores)
            right = label == row.answer
            return Prediction(row.id, texts[index], words, label, row.answer, right, scores)

        return base.run_prompts(eval_set, texts, prompts, context, answer=answer, score=score_row)


def _prompts(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet
) -> tuple[list[str], list[list[int]], list[list[list[int]]]]:
    """The prompts as text and token ids, and the token ids of each row's answers."""
    answers = encode_words(tokenizer, eval_set.rows.rows)
    longest = max((len(ids) for of_row in answers for ids in of_row), default=0)
    texts, ids = base.encoded_prompts(
        model, tokenizer, eval_set, extraction="choice", max_new_tokens=longest
    )
    return *base.framed(tokenizer, eval_set, texts, ids), answers


def encode_words(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[list[list[int]]]:
    """The token ids of each row's answers, as training rows encode their response."""
    return [
        tokenizer([words for _, words in row.options], add_special_tokens=False)["input_ids"]
        for row in rows
    ]


def log_likelihoods(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
    common: Sequence[int] = (),
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, list[float]]]:
    """Yield ``(index of the prompt, log-likelihood of each of its answers)``, long answers first.

    Rows are batched by their longest answer: with several answers per prompt, these cause most of
    the padding.

    Args:
        model: A causal language model, with or without an adapter, on any device.
        tokenizer: Its tokenizer, for the padding id.
        prompts: Token ids, one sequence per prompt; none empty.
        answers: Token ids of the answers to each prompt; none empty.
        batch_size: Answers per forward pass.
        common: Token ids that every prompt begins with; computed once.
        autocast_dtype: Compute under autocast to this dtype.

    Raises:
        UserError: the model cannot continue one prompt with several answers.
    """
    if not shares_prompts(model):
        raise UnsharedError
    pad = forward.pad_token_id(tokenizer, forward.end_token_ids(model, tokenizer))
    device = next(model.parameters()).device
    most = max(len(of_row) for of_row in answers)
    with forward.evaluating(model):
        with torch.inference_mode(), forward.autocast(device, autocast_dtype):
            prefix = compute_prefix(model, common)
        longest = [max(of_row, key=len) for of_row in answers]
        for batch in forward.longest_first(longest, max(1, batch_size // most)):
            # Not around the yield: the caller's code must not run in inference mode.
            with torch.inference_mode(), forward.autocast(device, autocast_dtype):
                found = _of_batch(
                    model, [prompts[i] for i in batch], [answers[i] for i in batch], pad, prefix
                )
            yield from zip(batch, found, strict=True)


def _of_batch(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    pad: int,
    prefix: Prefix,
) -> list[list[float]]:
    longer = [
        (row, place, ids)
        for row, of_row in enumerate(answers)
        for place, ids in enumerate(of_row)
        if len(ids) > 1
    ]
    tails = [(row, ids[:-1]) for row, _, ids in longer]
    found_logits = answer_logits(model, prompts, (), tails, pad=pad, prefix=prefix)
    first = found_logits.shared[:, -1].log_softmax(-1)
    found = [[float(first[row, ids[0]]) for ids in of_row] for row, of_row in enumerate(answers)]
    for (row, place, ids), logits in zip(longer, found_logits.tails, strict=True):
        rest = torch.tensor(ids[1:], device=logits.device)
        log_p = logits.log_softmax(-1)  # one answer at a time, to save memory
        found[row][place] += float(log_p.gather(-1, rest.unsqueeze(-1)).sum())
    return found


METHOD = Cloze()
