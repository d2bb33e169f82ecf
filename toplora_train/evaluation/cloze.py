r"""Multiple choice by each answer's own words, the mean log-likelihood of their tokens.

.. math:: \frac{1}{n} \sum_{i=1}^{n} \log p(t_i \mid \text{question}, t_{<i})

The answers are not listed in the question (see :mod:`toplora_train.data.cloze`). Without the mean
the shortest answer would mostly win. EOS does not count: what is compared are words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.data.chat import question_text
from toplora_train.data.rows import Row
from toplora_train.evaluation.answer_tree import UnsharedError, ask
from toplora_train.evaluation.evaluate import check_task
from toplora_train.evaluation.forward import (
    autocast,
    by_length,
    end_token_ids,
    evaluating,
    longest_first,
    pad_token_id,
)
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.protocol import CLEAN
from toplora_train.evaluation.shared_prompt import (
    Start,
    common_start,
    go_through,
    shares_prompts,
)
from toplora_train.evaluation.tally import NEW, Answer, Ledger, Score, Scores, tally


def evaluate_cloze(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    batch_size: int,
    per_token: bool = True,
    autocast_dtype: torch.dtype | None = None,
    ledger: Ledger = NEW,
) -> tuple[Score, list[Prediction]]:
    """Let ``model`` choose, for every row, the most probable of its ``options``.

    Args:
        model: A causal language model, plain or with an adapter.
        tokenizer: Its tokenizer.
        rows: The test rows, in the cloze form.
        batch_size: Answers per forward pass; it changes the speed, not the choice.
        per_token: Whether an answer's log-likelihood is divided by its number of tokens.
        autocast_dtype: Compute under autocast in this number format.
        ledger: What is answered already, who hears of the rest, and who shares the rows.

    Returns:
        The score, and the predictions in the order of the rows; a prediction's ``output`` is the
        chosen answer's words, its ``prediction`` the label, its ``scores`` those of all labels.

    Raises:
        UserError: a row that cannot be scored or does not fit into the model; see `check_task`.
    """
    texts = [question_text(tokenizer, row, CLEAN.ask) for row in rows]
    answers = encode_words(tokenizer, rows)
    longest = max((len(ids) for of_row in answers for ids in of_row), default=0)
    prompts = check_task(model, tokenizer, rows, texts, extraction="choice", max_new_tokens=longest)
    common = common_start(prompts)

    def best(row: Row, scores: Scores) -> tuple[str, str]:
        return max(row.options, key=lambda option: scores[option[0]])

    def answers_to(asked: list[int]) -> Iterator[Answer]:
        for place, likelihoods in log_likelihoods(
            model,
            tokenizer,
            [prompts[index] for index in asked],
            [answers[index] for index in asked],
            batch_size=batch_size,
            common=common,
            autocast_dtype=autocast_dtype,
        ):
            row = rows[asked[place]]
            lengths = [len(ids) if per_token else 1 for ids in answers[asked[place]]]
            scores = {
                label: round(value / length, 6)
                for (label, _), value, length in zip(row.options, likelihoods, lengths, strict=True)
            }
            yield place, best(row, scores)[1], scores

    def judge(index: int, _output: str, scores: Scores | None) -> Prediction:
        assert scores is not None  # what was taken over was chosen too: see the fingerprint
        row = rows[index]
        answer, said = best(row, scores)
        right = answer == row.answer
        return Prediction(row.id, texts[index], said, answer, row.answer, right, scores)

    return tally(
        [row.id for row in rows],
        texts,
        ledger,
        order=by_length(prompts),
        lengths=[len(prompt) for prompt in prompts],
        batch_size=batch_size,
        ask=answers_to,
        judge=judge,
    )


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

    Rows whose longest answers are about as long go together: there are several answers to a prompt,
    so it is they that are mostly padded.

    Args:
        model: A causal language model, plain or with an adapter, on any device.
        tokenizer: Says what fills the shorter rows.
        prompts: Token ids, one sequence per prompt; none empty.
        answers: Token ids of the answers to each prompt; none empty.
        batch_size: Answers per forward pass.
        common: Token ids that every prompt begins with; they are computed once.
        autocast_dtype: Compute under autocast in this number format.

    Raises:
        UserError: the model cannot go on from one prompt with several answers.
    """
    if not shares_prompts(model):
        raise UnsharedError
    pad = pad_token_id(tokenizer, end_token_ids(model, tokenizer))
    device = next(model.parameters()).device
    most = max(len(of_row) for of_row in answers)
    with evaluating(model):
        with torch.inference_mode(), autocast(device, autocast_dtype):
            start = go_through(model, common)
        longest = [max(of_row, key=len) for of_row in answers]
        for batch in longest_first(longest, max(1, batch_size // most)):
            # Not around the yield: the caller's code is not to run in inference mode.
            with torch.inference_mode(), autocast(device, autocast_dtype):
                found = _of_batch(
                    model, [prompts[i] for i in batch], [answers[i] for i in batch], pad, start
                )
            yield from zip(batch, found, strict=True)


def _of_batch(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    pad: int,
    start: Start,
) -> list[list[float]]:
    longer = [
        (row, place, ids)
        for row, of_row in enumerate(answers)
        for place, ids in enumerate(of_row)
        if len(ids) > 1
    ]
    said = ask(
        model, prompts, (), [(row, ids[:-1]) for row, _, ids in longer], pad=pad, start=start
    )
    first = said.beginning[:, -1].log_softmax(-1)
    found = [[float(first[row, ids[0]]) for ids in of_row] for row, of_row in enumerate(answers)]
    for (row, place, ids), logits in zip(longer, said.tails, strict=True):
        rest = torch.tensor(ids[1:], device=logits.device)
        words = logits.log_softmax(-1)  # of all answers at once it would be most of the memory
        found[row][place] += float(words.gather(-1, rest.unsqueeze(-1)).sum())
    return found
