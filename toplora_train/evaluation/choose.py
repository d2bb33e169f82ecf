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
    begin,
    encode_options,
    go_on,
    go_through,
    shares_prompts,
)

UNSHARED = (
    "this model cannot go on from one prompt with several answers, so it cannot choose among them; "
    "use evaluation.multiple_choice=generate"
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
        raise UserError(UNSHARED)
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
    begun = begin(model, prompts, options.shared, pad=pad, start=start)
    said = begun.logits.log_softmax(-1)
    device = said.device
    common = torch.tensor(options.shared, dtype=torch.long, device=device)
    places = torch.arange(len(common), device=device)
    heads = torch.tensor([tail[0] for tail in options.tails], device=device)
    scores: Tensor = said[:, places, common].sum(1, keepdim=True) + said[:, -1, heads]
    longer = [index for index, tail in enumerate(options.tails) if len(tail) > 1]
    if not longer:
        return scores
    if not begun.can_go_on:
        raise UserError(UNSHARED)
    rows = [row for row in range(len(prompts)) for _ in longer]
    fed = [options.tails[option][:-1] for option in longer] * len(prompts)
    said = go_on(model, begun, rows, fed, pad=pad).log_softmax(-1)
    wanted = torch.full(said.shape[:2], -1, device=device)
    for line, option in enumerate(longer * len(prompts)):
        rest = options.tails[option][1:]
        wanted[line, : len(rest)] = torch.tensor(rest, device=device)
    found = said.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    scores[:, longer] += (found * (wanted >= 0)).sum(1).view(len(prompts), len(longer))
    return scores
