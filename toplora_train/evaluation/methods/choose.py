r"""Multiple choice by the likelihood of each option's response, given the prompt.

.. math:: \log p(\text{answer} \mid \text{prompt}) = \sum_i \log p(t_i \mid \text{prompt}, t_{<i})

The answer is the whole response of a training row including EOS, so that an answer that is a prefix
of another has no advantage. The sum is not normalised by length, as the answers of the tasks here
differ in one token; ``option_score: mean`` divides by the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
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
        _prompts(model, tokenizer, eval_set, encode_choices(tokenizer, responses(eval_set)))

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
        options = encode_choices(tokenizer, list(sentences.values()))
        texts, prompts = _prompts(model, tokenizer, eval_set, options)
        lengths = dict(zip(choices, options.lengths, strict=True))
        per_token = eval_set.option_score == "mean"
        common = common_prefix(prompts)

        def best(scores: Scores) -> str:
            return max(choices, key=lambda c: scores[c] / (lengths[c] if per_token else 1))

        def answer(pending: list[int]) -> Iterator[Answer]:
            for place, likelihoods in choose(
                model,
                tokenizer,
                [prompts[index] for index in pending],
                list(sentences.values()),
                batch_size=context.batch_size,
                common=common,
                autocast_dtype=context.autocast_dtype,
            ):
                scores = {c: round(value, 6) for c, value in zip(choices, likelihoods, strict=True)}
                yield Answer(place, sentences[best(scores)], scores)

        def score_row(index: int, _output: str, scores: Scores | None) -> Prediction:
            assert scores is not None  # reused predictions have the same identity, so scores too
            row, chosen = rows[index], best(scores)
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
    return base.encoded_prompts(
        model, tokenizer, eval_set, extraction="choice", max_new_tokens=longest, choices=choices
    )


def encode_choices(tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]) -> Options:
    """Encode whole responses, EOS included.

    Raises:
        UserError: the tokenizer has no EOS, or two responses have the same tokens.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token, so answers cannot end; set one")
    return encode_options(tokenizer, responses, end=[tokenizer.eos_token_id])


def choose(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[str],
    *,
    batch_size: int,
    common: Sequence[int] = (),
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, list[float]]]:
    """Yield ``(index of the prompt, log-likelihood of each response)``, longest prompts first.

    Args:
        model: A causal language model, with or without an adapter, on any device.
        tokenizer: Encodes the responses as in training.
        prompts: Token ids, one sequence per prompt; none empty.
        responses: The texts to choose from, the same for every prompt.
        batch_size: Prompts per forward pass; it affects the speed only.
        common: Token ids that every prompt begins with; computed once.
        autocast_dtype: Compute under autocast to this dtype.

    Raises:
        UserError: two responses cannot be distinguished, or the model cannot continue one prompt
            with several answers.
    """
    if not shares_prompts(model):
        raise UnsharedError
    options = encode_choices(tokenizer, responses)
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
