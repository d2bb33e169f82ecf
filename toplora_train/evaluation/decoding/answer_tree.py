"""Logits for all answers to a batch of prompts, in one forward pass.

The answers follow their prompt side by side, none attending to another, each with the position ids
it would have alone (tree attention; SpecInfer, arXiv:2305.09781). So neither the prompt nor its
keys and values are repeated per answer::

    prompt: What is ...? | shared: the answer is | 1 | 2
                                                   ^   ^ attends to prompt and shared, not to 1

Other architectures take two passes, one for the prompt and one for the answers (:mod:`.prefix`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toplora_train.config.errors import UserError
from toplora_train.evaluation.decoding.prefix import NO_PREFIX, Prefix, extend, prefill
from toplora_train.evaluation.forward import forward_takes

# Architectures that accept an arbitrary 4-D mask; this module's tests compare each with full
# sequences.
IN_ONE_PASS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "gpt2", "gpt_neox")


class UnsharedError(UserError):
    """The model cannot continue one prompt with several answers."""

    def __init__(self) -> None:
        super().__init__(
            "this model cannot continue one prompt with several answers, so options cannot be "
            "ranked by likelihood; use evaluation.multiple_choice=generate"
        )


Tail = tuple[int, Sequence[int]]  # the row in the batch, and an answer's tokens after the shared


@dataclass(frozen=True)
class AnswerLogits:
    """Logits for the answers to a batch of prompts, float32.

    Attributes:
        shared: ``(rows, shared + 1, vocabulary)``: the logits that predict each token of the
            answers' shared prefix, and the token after it.
        tails: For each tail ``(tokens, vocabulary)``: the logits after each of its tokens.
    """

    shared: Tensor
    tails: list[Tensor]


def answer_logits(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    shared: Sequence[int],
    tails: Sequence[Tail],
    *,
    pad: int,
    prefix: Prefix = NO_PREFIX,
) -> AnswerLogits:
    """Run prompts and their answers through the model.

    Args:
        model: A causal language model.
        prompts: Full prompts, as token ids.
        shared: Token ids that all answers begin with.
        tails: The rest of each answer with its row; none empty, rows in any order.
        pad: The padding id.
        prefix: The prompts' common prefix, if already computed.

    Raises:
        UnsharedError: the model cannot continue one prompt with several answers.
    """
    if tails and takes_any_mask(model):
        return _in_one_pass(model, prompts, shared, tails, pad=pad, prefix=prefix)
    prefilled = prefill(model, prompts, shared, pad=pad, prefix=prefix)
    if not tails:
        return AnswerLogits(prefilled.logits, [])
    if not prefilled.can_extend:
        raise UnsharedError
    after = extend(model, prefilled, [row for row, _ in tails], [ids for _, ids in tails], pad=pad)
    return AnswerLogits(
        prefilled.logits, [after[line, : len(ids)] for line, (_, ids) in enumerate(tails)]
    )


def takes_any_mask(model: nn.Module) -> bool:
    """Whether every layer of this model attends exactly where a 4-D mask allows it."""
    config: Any = model.config
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    return (
        config.model_type in IN_ONE_PASS
        and config._attn_implementation == "sdpa"
        and getattr(config, "sliding_window", None) is None
        and not windows
    )


def _in_one_pass(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    shared: Sequence[int],
    tails: Sequence[Tail],
    *,
    pad: int,
    prefix: Prefix,
) -> AnswerLogits:
    device = next(model.parameters()).device
    trunks = [[*prompt[prefix.length :], *shared] for prompt in prompts]
    trunk, used = max(map(len, trunks)), [0] * len(prompts)
    starts = []  # each tail's first column after the trunk
    for row, ids in tails:
        starts.append(used[row])
        used[row] += len(ids)
    shape = len(prompts), trunk + max(used)

    tokens = torch.full(shape, pad)
    positions = torch.zeros(shape, dtype=torch.long)
    # Padding attends to itself: a softmax over nothing is NaN, and would spread.
    mask = torch.eye(shape[1], dtype=torch.bool).repeat(len(prompts), 1, 1)
    for row, ids in enumerate(trunks):
        own = slice(trunk - len(ids), trunk)
        tokens[row, own] = torch.tensor(ids)
        positions[row, own] = torch.arange(prefix.length, prefix.length + len(ids))
        mask[row, own, own] = _causal(len(ids))
    for (row, ids), first in zip(tails, starts, strict=True):
        own = slice(trunk + first, trunk + first + len(ids))
        before = len(trunks[row])
        tokens[row, own] = torch.tensor(ids)
        positions[row, own] = prefix.length + before + torch.arange(len(ids))
        mask[row, own, trunk - before : trunk] = True
        mask[row, own, own] = _causal(len(ids))

    kept = len(shared) + 1 + max(used)
    extra: dict[str, Any] = {}
    if prefix.length:
        mask = torch.cat([mask.new_ones(*shape, prefix.length), mask], dim=2)
        extra["past_key_values"] = prefix.cache_for(len(prompts))
    if forward_takes(model, "logits_to_keep"):  # the rest would take most of the memory
        extra["logits_to_keep"] = kept
    output = model(
        input_ids=tokens.to(device),
        attention_mask=mask[:, None].to(device),
        position_ids=positions.to(device),
        use_cache=bool(prefix.length),
        **extra,
    )
    logits: Tensor = output.logits[:, -kept:].float()
    after = logits[:, len(shared) + 1 :]
    return AnswerLogits(
        logits[:, : len(shared) + 1],
        [
            after[row, first : first + len(ids)]
            for (row, ids), first in zip(tails, starts, strict=True)
        ],
    )


def _causal(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()
