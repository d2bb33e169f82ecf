r"""Multiple choice by probability: how likely the model finds each answer after the prompt.

.. math:: \log p(\text{answer} \mid \text{prompt}) = \sum_i \log p(t_i \mid \text{prompt}, t_{<i})

The answer is the whole response of a training row, EOS included, so that no answer is favoured for
being the beginning of another. The sum is not divided by the number of tokens: the answers of the
tasks here differ in one token. Where they differ in length, ``mean`` divides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.evaluation.answer_tree import UnsharedError, ask
from toplora_train.evaluation.forward import (
    autocast,
    end_token_ids,
    evaluating,
    longest_first,
    pad_token_id,
)
from toplora_train.evaluation.shared_prompt import (
    Options,
    Start,
    encode_options,
    go_through,
    shares_prompts,
)


def encode_choices(tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]) -> Options:
    """Encode whole responses, EOS included.

    Raises:
        UserError: the tokenizer has no EOS, or two responses are the same tokens.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token, so no answer ends; set one")
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
        model: A causal language model, plain or with an adapter, on any device.
        tokenizer: Encodes the responses as it does in training.
        prompts: Token ids, one sequence per prompt; none empty.
        responses: The texts to choose from, the same for every prompt.
        batch_size: Prompts per forward pass; it changes the speed, not the choice.
        common: Token ids that every prompt begins with; they are computed once.
        autocast_dtype: Compute under autocast in this number format.

    Raises:
        UserError: two responses cannot be told apart, or the model cannot go on from one prompt
            with several answers.
    """
    if not shares_prompts(model):
        raise UnsharedError
    options = encode_choices(tokenizer, responses)
    pad = pad_token_id(tokenizer, end_token_ids(model, tokenizer))
    device = next(model.parameters()).device
    with evaluating(model):
        with torch.inference_mode(), autocast(device, autocast_dtype):
            start = go_through(model, common)
        for batch in longest_first(prompts, batch_size):
            # Not around the yield: the caller's code is not to run in inference mode.
            with torch.inference_mode(), autocast(device, autocast_dtype):
                likelihoods = _log_likelihoods(
                    model, [prompts[index] for index in batch], options, pad, start
                )
            yield from zip(batch, likelihoods.tolist(), strict=True)


def _log_likelihoods(
    model: nn.Module, prompts: Sequence[Sequence[int]], options: Options, pad: int, start: Start
) -> Tensor:
    """``(prompts, options)``."""
    longer = [index for index, tail in enumerate(options.tails) if len(tail) > 1]
    tails = [(row, options.tails[option][:-1]) for row in range(len(prompts)) for option in longer]
    said = ask(model, prompts, options.shared, tails, pad=pad, start=start)
    beginning = said.beginning.log_softmax(-1)
    device = beginning.device
    shared = torch.tensor(options.shared, dtype=torch.long, device=device)
    places = torch.arange(len(shared), device=device)
    heads = torch.tensor([tail[0] for tail in options.tails], device=device)
    scores: Tensor = beginning[:, places, shared].sum(1, keepdim=True) + beginning[:, -1, heads]
    if longer:
        rests = [options.tails[option][1:] for option in longer] * len(prompts)
        wanted = torch.tensor([token for rest in rests for token in rest], device=device)
        found = torch.cat(said.tails).log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        whose = [place for place, rest in enumerate(rests) for _ in rest]
        summed = found.new_zeros(len(rests)).index_add(0, torch.tensor(whose, device=device), found)
        scores[:, longer] += summed.view(len(prompts), len(longer))
    return scores
