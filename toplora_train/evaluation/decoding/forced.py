"""Verify greedy decoding's answer in one forward pass instead of generating it.

A tuned model answers a multiple-choice question with a sentence known except for one word. One pass
over prompt and sentence gives the most probable token at every position. Where these are the
sentence itself followed by EOS, greedy decoding would generate exactly that. Where they are not, or
two tokens are so close that rounding could decide between them, the row is decoded as usual.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from toplora_train.evaluation.decoding.answer_tree import UnsharedError, answer_logits
from toplora_train.evaluation.decoding.decode import decode_answer
from toplora_train.evaluation.decoding.prefix import (
    Options,
    Prefix,
    compute_prefix,
    encode_options,
    shares_prompts,
)
from toplora_train.evaluation.forward import (
    autocast,
    end_token_ids,
    evaluating,
    longest_first,
    pad_token_id,
)

# The least lead of the most probable token over the second, in logits: many times the rounding
# difference between one pass and decoding token by token.
MARGIN = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}


def prove_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    common: Sequence[int] = (),
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield ``(index of the prompt, greedy answer)`` for the prompts where it can be verified.

    Stops after the first batch without any: this model does not answer in these words.

    Args:
        model: A causal language model, with or without an adapter, on any device.
        tokenizer: Encodes the responses as in training.
        prompts: Token ids, one sequence per prompt; none empty.
        responses: The expected answer texts.
        max_new_tokens: The most tokens that decoding would generate, EOS included.
        batch_size: Prompts per forward pass.
        common: Token ids that every prompt begins with; computed once.
        autocast_dtype: Compute under autocast to this dtype.
    """
    options = encode_options(tokenizer, responses)
    if max(options.lengths) + 1 > max_new_tokens or not shares_prompts(model):
        return
    ends = end_token_ids(model, tokenizer)
    pad = pad_token_id(tokenizer, ends)
    parameter = next(model.parameters())
    margin = MARGIN[autocast_dtype or parameter.dtype]
    with evaluating(model):
        with torch.inference_mode(), autocast(parameter.device, autocast_dtype):
            prefix = compute_prefix(model, common)
        for batch in longest_first(prompts, batch_size):
            # Not around the yield: the caller's code must not run in inference mode.
            with torch.inference_mode(), autocast(parameter.device, autocast_dtype):
                found = _proven(
                    model, [prompts[index] for index in batch], options, ends, pad, margin, prefix
                )
            if not found:
                return
            for row, option in found.items():
                ids = [*options.shared, *options.tails[option]]
                yield batch[row], decode_answer(tokenizer, ids, ends)


def _proven(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    options: Options,
    ends: set[int],
    pad: int,
    margin: float,
    prefix: Prefix,
) -> dict[int, int]:
    """The option that greedy decoding would generate, by row."""
    lines = [
        (row, option, tail)
        for row in range(len(prompts))
        for option, tail in enumerate(options.tails)
    ]
    longer = [(row, tail) for row, _, tail in lines if tail]
    try:
        logits = answer_logits(model, prompts, options.shared, longer, pad=pad, prefix=prefix)
    except UnsharedError:
        return {}
    beginning = _sure_tokens(logits.shared, margin)
    after = iter(_sure_tokens(torch.cat(logits.tails), margin) if longer else ())
    proven: dict[int, int] = {}
    for row, option, tail in lines:
        tokens = [*beginning[row], *(next(after) for _ in tail)]
        if tokens[:-1] == [*options.shared, *tail] and tokens[-1] in ends:
            proven[row] = option
    return proven


def _sure_tokens(logits: Tensor, margin: float) -> list[Any]:
    """The most probable token at each position; -1 where the second is too close."""
    top = logits.topk(2, dim=-1)
    sure = top.values[..., 0] - top.values[..., 1] > margin
    tokens: list[Any] = top.indices[..., 0].where(sure, -1).tolist()
    return tokens
