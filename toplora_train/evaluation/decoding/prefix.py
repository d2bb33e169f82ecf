"""Reuse a prompt's keys and values for all answers that may follow it.

The prompts of a task share a prefix ("Below is an instruction ..."), a third to a half of a short
question's tokens, whose keys and values are computed once. The answers of a multiple-choice task
share a prefix too ("the correct answer is ..."). So a second pass computes the rest of a batch of
prompts with the answers' shared prefix, and a last, tiny one the rest of the answers (mostly a
digit and EOS).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from toplora_train.config.errors import UserError
from toplora_train.evaluation.forward import forward_takes, left_padded


@dataclass(frozen=True)
class Options:
    """Answers as token ids: their ``shared`` prefix, and the ``tails`` that follow it."""

    shared: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each whole answer."""
        return [len(self.shared) + len(tail) for tail in self.tails]


def encode_options(
    tokenizer: PreTrainedTokenizerBase, responses: Sequence[str], *, end: Sequence[int] = ()
) -> Options:
    """Encode answers as training rows encode their response, with ``end`` (EOS) after each.

    Raises:
        UserError: two answers have the same tokens, so they cannot be distinguished.
    """
    encoded = [
        (*ids, *end) for ids in tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    ]
    for index, ids in enumerate(encoded):
        if ids in encoded[:index]:
            raise UserError(
                f"the choices {responses[encoded.index(ids)]!r} and {responses[index]!r} are the "
                "same tokens; make the task's choices different"
            )
    equal = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*encoded, strict=False))
    shared = tuple(tokens[0] for tokens in equal)
    return Options(shared, tuple(ids[len(shared) :] for ids in encoded))


@dataclass(frozen=True)
class Prefilled:
    """A batch of prompts with their answers' shared prefix: logits, keys and values.

    Attributes:
        logits: ``(rows, shared + 1, vocabulary)``, float32: they predict each token of the shared
            prefix, and the one after it.
        mask: ``(rows, width)``, 1 for tokens, 0 for padding.
        cache: The keys and values so far.
    """

    logits: Tensor
    mask: Tensor
    cache: Any

    @property
    def can_extend(self) -> bool:
        """Whether rows can be selected from the cache; not from a recurrent state."""
        layers = getattr(self.cache, "layers", ())
        return bool(layers) and all(hasattr(one, "batch_select_indices") for one in layers)


def shares_prompts(model: nn.Module) -> bool:
    """Whether one pass over a prompt can serve several answers.

    Not with prompt learning, which prepends virtual tokens, nor with an encoder-decoder, whose
    answers do not continue the prompt, nor with Activated LoRA, which looks for its invocation in
    the tokens of one pass.
    """
    configs = getattr(model, "peft_config", {})
    if any(getattr(one, "alora_invocation_tokens", None) for one in configs.values()):
        return False
    virtual = any(getattr(one, "is_prompt_learning", False) for one in configs.values())
    return not virtual and not getattr(model.config, "is_encoder_decoder", False)


def common_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all prompts begin with, leaving at least one token of each prompt."""
    if len(prompts) < 2:
        return ()
    ordered = sorted(map(tuple, prompts))
    first, last = ordered[0], ordered[-1]  # all prompts in between share what these two share
    limit = min(map(len, prompts)) - 1
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return tuple(token for token, _ in equal)[:limit]


@dataclass(frozen=True)
class Prefix:
    """The prompts' common prefix: its length, its keys and values."""

    length: int = 0
    cache: Any = None

    def cache_for(self, rows: int) -> Any:
        """A copy of the cache, repeated for ``rows`` rows."""
        if self.cache is None:
            return None
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


NO_PREFIX = Prefix()


def grows_by_row(cache: Any) -> bool:
    """Whether a cache is keys and values of each token: no recurrent state, no window of slots."""
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def depends_on_width(config: Any) -> bool:
    """Whether a token's keys depend on how wide its batch is, so that padded rows differ.

    So do rotations whose frequencies change with the length, and GPT-Neo's local attention, which
    counts slots of the cache.
    """
    config = getattr(config, "get_text_config", lambda: config)()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, Mapping))]
    by_length = any(one.get("rope_type") in ("dynamic", "longrope") for one in kinds)
    return by_length or "local" in (getattr(config, "attention_layers", None) or ())


def compute_prefix(model: nn.Module, ids: Sequence[int]) -> Prefix:
    """Compute the keys and values of the prompts' common prefix.

    Returns ``NO_PREFIX`` where they cannot be followed by padded rows (a recurrent state, a window
    counted in cache slots, a forward without ``position_ids``); then every row is computed whole.
    """
    if not ids or not forward_takes(model, "position_ids") or depends_on_width(model.config):
        return NO_PREFIX
    device = next(model.parameters()).device
    extra = {"logits_to_keep": 1} if forward_takes(model, "logits_to_keep") else {}
    output = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=True, **extra)
    cache = getattr(output, "past_key_values", None)
    return Prefix(len(ids), cache) if grows_by_row(cache) else NO_PREFIX


def prefill(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    shared: Sequence[int],
    *,
    pad: int,
    prefix: Prefix = NO_PREFIX,
    cache: Any = None,
) -> Prefilled:
    """Run prompts with their answers' shared prefix through the model.

    Args:
        model: A causal language model.
        prompts: Full prompts, as token ids.
        shared: Token ids that all answers begin with.
        pad: The padding id.
        prefix: The prompts' common prefix, if already computed.
        cache: An empty cache to fill without a prefix; None for the model's own.
    """
    device = next(model.parameters()).device
    inputs = left_padded([[*prompt[prefix.length :], *shared] for prompt in prompts], pad)
    mask = inputs["attention_mask"].to(device)
    mask = torch.cat([mask.new_ones(len(prompts), prefix.length), mask], dim=1)
    kept = len(shared) + 1
    extra: dict[str, Any] = {}
    if prefix.length:
        cache = prefix.cache_for(len(prompts))
    if cache is not None:
        extra["past_key_values"] = cache
    if forward_takes(model, "position_ids"):
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, prefix.length :]
    if forward_takes(model, "logits_to_keep"):  # the rest would take most of the memory
        extra["logits_to_keep"] = kept
    output = model(
        input_ids=inputs["input_ids"].to(device), attention_mask=mask, use_cache=True, **extra
    )
    filled = getattr(output, "past_key_values", None)  # recurrent models have none
    return Prefilled(output.logits[:, -kept:].float(), mask, filled)


def extend(
    model: nn.Module,
    prefilled: Prefilled,
    rows: Sequence[int],
    tails: Sequence[Sequence[int]],
    *,
    pad: int,
) -> Tensor:
    """Continue ``rows`` with one tail each; the cache is consumed.

    Args:
        model: The model that was prefilled.
        prefilled: What :func:`prefill` returned.
        rows: For each tail, the row that it continues; rows may repeat.
        tails: Token ids; none empty.
        pad: The padding id.

    Returns:
        The logits after each token, ``(tails, longest tail, vocabulary)``, float32.
    """
    device = prefilled.mask.device
    width = max(len(tail) for tail in tails)
    chosen = torch.tensor(list(rows), device=device)
    ids = torch.tensor([[*tail, *[pad] * (width - len(tail))] for tail in tails], device=device)
    real = torch.tensor(
        [[1] * len(tail) + [0] * (width - len(tail)) for tail in tails], device=device
    )
    mask = prefilled.mask[chosen]
    extra: dict[str, Any] = {}
    if forward_takes(model, "position_ids"):
        extra["position_ids"] = mask.sum(-1, keepdim=True) + torch.arange(width, device=device)
    prefilled.cache.batch_select_indices(chosen)
    output = model(
        input_ids=ids,
        attention_mask=torch.cat([mask, real], dim=1),
        past_key_values=prefilled.cache,
        use_cache=True,
        **extra,
    )
    logits: Tensor = output.logits.float()
    return logits
