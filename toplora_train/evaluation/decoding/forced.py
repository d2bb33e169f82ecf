"""Greedy's answer proven instead of decoded.

A tuned model answers a multiple-choice question with a sentence that is known but for one word.
One pass over prompt and sentence shows what the model finds most probable at every place of it.
Where that is the sentence itself, and an end after it, decoding token by token would have written
the same: nothing needs to be decoded. Where it is not, or where two tokens are so close that
rounding could decide between them, the row is left to decoding.
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

# How far the most probable token must be ahead of the second, in logits: many times the rounding
# that a pass over the whole and a pass token by token may differ by.
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
    """Yield ``(index of the prompt, greedy's answer)`` for the prompts where it can be proven.

    The search ends with the first batch in which nothing was proven: this model does not answer in
    these words.

    Args:
        model: A causal language model, plain or with an adapter, on any device.
        tokenizer: Encodes the responses as it does in training.
        prompts: Token ids, one sequence per prompt; none empty.
        responses: The texts that the model may be expected to write.
        max_new_tokens: The most tokens that decoding would write, an end included.
        batch_size: Prompts per forward pass.
        common: Token ids that every prompt begins with; they are computed once.
        autocast_dtype: Compute under autocast in this number format.
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
            # Not around the yield: the caller's code is not to run in inference mode.
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
    """The option that greedy decoding would write, by row."""
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
    """The most probable token at each place, -1 where the second is too close."""
    top = logits.topk(2, dim=-1)
    sure = top.values[..., 0] - top.values[..., 1] > margin
    tokens: list[Any] = top.indices[..., 0].where(sure, -1).tolist()
    return tokens
