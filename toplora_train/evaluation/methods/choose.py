r"""Multiple choice by the likelihood of each option's response, given the prompt.

.. math:: \log p(\text{answer} \mid \text{prompt}) = \sum_i \log p(t_i \mid \text{prompt}, t_{<i})

Only the choices that a row offers ("Answer format: a/b") are ranked, all if it names none. The
answer is the whole response of a training row, its end of turn and EOS included, so that an answer
that is a prefix of another has no advantage. The sum is not normalised by length, as the answers of
the tasks here differ in one token; ``option_score: mean`` divides by the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.data.cloze import offered
from toplora_train.data.rows import Row
from toplora_train.evaluation import forward
from toplora_train.evaluation.answers import same_choice
from toplora_train.evaluation.decoding.answer_tree import UnsharedError, answer_logits
from toplora_train.evaluation.decoding.prefix import (
    Options,
    Prefix,
    common_prefix,
    compute_prefix,
    encode_options,
    shares_prompts,
)
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods import base
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.run_evaluation import Answer, Score, Scores


class Choose(base.Method):
    """The same prompt as :mod:`.generate`; a prediction's ``scores`` are log-likelihoods."""

    title = "chosen by likelihood"

    def validate(self, eval_set: EvalSet) -> None:
        """Refuse a task without choices or without a response that contains ``{answer}``."""
        if not eval_set.choices or "{answer}" not in (eval_set.response or ""):
            raise UserError(
                f"task.{eval_set.name}: kind choose needs choices and a response that contains "
                "{answer}, such as 'the correct answer is {answer}'"
            )
        base.validate_protocol(eval_set)

    def identity(self, eval_set: EvalSet) -> dict[str, Any]:
        """The choices, the response, and how the options are scored."""
        score = eval_set.option_score or "sum"
        return base.prompt_identity(eval_set, response=eval_set.response, option_score=score)

    def validate_rows(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet
    ) -> None:
        """Refuse rows whose answer is not a choice, and prompts longer than the model allows."""
        _prompts(model, tokenizer, eval_set, _options(tokenizer, eval_set))

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        eval_set: EvalSet,
        context: base.EvalContext,
    ) -> tuple[Score, list[Prediction]]:
        """Score every choice after every prompt; the highest score is the answer."""
        rows, choices = eval_set.rows.rows, eval_set.choices
        sentences = dict(zip(choices, responses(eval_set), strict=True))
        options = _options(tokenizer, eval_set)
        texts, prompts = _prompts(model, tokenizer, eval_set, options)
        lengths = dict(zip(choices, options.lengths, strict=True))
        per_token = eval_set.option_score == "mean"
        common = common_prefix(prompts)

        def best(row: Row, scores: Scores) -> str:
            # A task's rows may offer fewer than all of its choices, as ARC's do.
            given = [c for c in choices if any(same_choice(c, label) for label in offered(row))]
            return max(given or choices, key=lambda c: scores[c] / (lengths[c] if per_token else 1))

        def answer(pending: list[int]) -> Iterator[Answer]:
            for place, likelihoods in choose(
                model,
                tokenizer,
                [prompts[index] for index in pending],
                options,
                batch_size=context.batch_size,
                common=common,
                autocast_dtype=context.autocast_dtype,
            ):
                scores = {c: round(value, 6) for c, value in zip(choices, likelihoods, strict=True)}
                yield Answer(place, sentences[best(rows[pending[place]], scores)], scores)

        def score_row(index: int, _output: str, scores: Scores | None) -> Prediction:
            assert scores is not None  # reused predictions have the same identity, so scores too
            row = rows[index]
            chosen = best(row, scores)
            correct = same_choice(chosen, row.answer)
            return Prediction(
                row.id, texts[index], sentences[chosen], chosen, row.answer, correct, scores
            )

        return base.run_prompts(eval_set, texts, prompts, context, answer=answer, score=score_row)


def responses(eval_set: EvalSet) -> list[str]:
    """The task's response for each choice."""
    return [(eval_set.response or "").replace("{answer}", one) for one in eval_set.choices]


def _prompts(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet, options: Options
) -> tuple[list[str], list[list[int]]]:
    longest, choices = max(options.lengths), eval_set.choices
    texts, ids = base.encoded_prompts(
        model, tokenizer, eval_set, extraction="choice", max_new_tokens=longest, choices=choices
    )
    return base.framed(tokenizer, eval_set, texts, ids)


def _options(tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet) -> Options:
    _, after = base.frame_of(tokenizer, eval_set)
    return encode_choices(tokenizer, responses(eval_set), after=after)


def encode_choices(
    tokenizer: PreTrainedTokenizerBase, responses: Sequence[str], *, after: str = ""
) -> Options:
    """Encode whole responses, EOS included, and what a chat template writes ``after`` an answer.

    Raises:
        UserError: the tokenizer has no EOS, or two responses have the same tokens.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError("the tokenizer has no EOS token, so answers cannot end; set one")
    end = tokenizer(after, add_special_tokens=False)["input_ids"]
    return encode_options(tokenizer, responses, end=end if end[-1:] == [eos] else [*end, eos])


def choose(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    options: Options,
    *,
    batch_size: int,
    common: Sequence[int] = (),
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, list[float]]]:
    """Yield ``(index of the prompt, log-likelihood of each response)``, longest prompts first.

    Args:
        model: A causal language model, with or without an adapter, on any device.
        tokenizer: Its tokenizer, for the padding id.
        prompts: Token ids, one sequence per prompt; none empty.
        options: The responses to choose from, the same for every prompt.
        batch_size: Prompts per forward pass; it affects the speed only.
        common: Token ids that every prompt begins with; computed once.
        autocast_dtype: Compute under autocast to this dtype.

    Raises:
        UserError: the model cannot continue one prompt with several answers.
    """
    if not shares_prompts(model):
        raise UnsharedError
    pad = forward.pad_token_id(tokenizer, forward.end_token_ids(model, tokenizer))
    device = next(model.parameters()).device
    with forward.evaluating(model):
        with torch.inference_mode(), forward.autocast(device, autocast_dtype):
            prefix = compute_prefix(model, common)
        for batch in forward.longest_first(prompts, batch_size):
            # Not around the yield: the caller's code must not run in inference mode.
            with torch.inference_mode(), forward.autocast(device, autocast_dtype):
                likelihoods = _log_likelihoods(
                    model, [prompts[index] for index in batch], options, pad, prefix
                )
            yield from zip(batch, likelihoods.tolist(), strict=True)


def _log_likelihoods(
    model: nn.Module, prompts: Sequence[Sequence[int]], options: Options, pad: int, prefix: Prefix
) -> Tensor:
    """The log-likelihoods, ``(prompts, options)``."""
    longer = [index for index, tail in enumerate(options.tails) if len(tail) > 1]
    tails = [(row, options.tails[option][:-1]) for row in range(len(prompts)) for option in longer]
    logits = answer_logits(model, prompts, options.shared, tails, pad=pad, prefix=prefix)
    beginning = logits.shared.log_softmax(-1)
    device = beginning.device
    shared = torch.tensor(options.shared, dtype=torch.long, device=device)
    positions = torch.arange(len(shared), device=device)
    heads = torch.tensor([tail[0] for tail in options.tails], device=device)
    scores: Tensor = beginning[:, positions, shared].sum(1, keepdim=True) + beginning[:, -1, heads]
    if longer:
        rests = [options.tails[option][1:] for option in longer] * len(prompts)
        targets = torch.tensor([token for rest in rests for token in rest], device=device)
        log_p = torch.cat(logits.tails).log_softmax(-1)
        found = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        owner = [place for place, rest in enumerate(rests) for _ in rest]
        summed = found.new_zeros(len(rests)).index_add(0, torch.tensor(owner, device=device), found)
        scores[:, longer] += summed.view(len(prompts), len(longer))
    return scores


METHOD = Choose()
