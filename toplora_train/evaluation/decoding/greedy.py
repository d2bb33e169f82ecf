"""Greedy decoding in which rows leave as they end and the next ones take their places.

transformers computes every row of a batch until its last one has ended. Here a batch is decoded
until a quarter of its rows have ended; they leave with their keys and values, and waiting prompts,
computed by themselves, join. All rows end at the right edge of the batch; the padding on their left
is masked. A row's tokens are those of any other batch, to rounding, and it never uses more
positions than its prompt and the longest answer have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from toplora_train.evaluation.decoding.prefix import (
    Prefix,
    compute_prefix,
    depends_on_width,
    grows_by_row,
    prefill,
)
from toplora_train.evaluation.forward import autocast, by_length, forward_takes

SHARE = 4
"""Ended rows leave when one row of so many has ended."""


def rows_can_leave(model: nn.Module, pad: int) -> bool:
    """Whether the model's state is keys and values of each token, which rows can take along.

    One token is computed, as what a model returns is not known from its configuration.
    """
    if not (forward_takes(model, "position_ids") and forward_takes(model, "past_key_values")):
        return False
    config: Any = model.config
    if depends_on_width(config) or not grows_by_row(cache := DynamicCache(config=config)):
        return False
    ids = torch.tensor([[pad]], device=next(model.parameters()).device)
    output = model(input_ids=ids, past_key_values=cache, use_cache=True)
    returned = getattr(output, "past_key_values", None)
    return returned is cache and grows_by_row(returned) and returned.get_seq_length() == 1


def decode_greedily(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    common: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    ends: Set[int],
    pad: int,
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Yield ``(index, tokens)`` of each prompt when it has ended; the longest ones start first.

    Args:
        model: A causal language model for which :func:`rows_can_leave`.
        prompts: Token ids, none empty.
        common: What all prompts begin with; computed once.
        max_new_tokens: The most tokens generated per row.
        batch_size: Rows at a time.
        ends: The ids that end a row.
        pad: The padding id.
        autocast_dtype: Compute under autocast to this dtype.
    """
    device = next(model.parameters()).device
    ending = torch.tensor(sorted(ends), device=device, dtype=torch.long)
    settings = GenerationConfig(
        do_sample=False, use_cache=True, pad_token_id=pad, eos_token_id=sorted(ends) or None
    )
    waiting, rows = deque(by_length(prompts)), None
    with torch.inference_mode(), autocast(device, autocast_dtype):
        # Each row keeps two tokens of its own; its last one is read by the first step.
        prefix = compute_prefix(model, common[: max(0, min(map(len, prompts), default=0) - 2)])
    while waiting or rows is not None:
        # Not around the yield: the caller's code must not run in inference mode.
        with torch.inference_mode(), autocast(device, autocast_dtype):
            free = batch_size - (0 if rows is None else len(rows.indices))
            chosen = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            if chosen:
                new = _start(model, prompts, chosen, prefix, pad)
                rows = new if rows is None else _join(rows, new, pad)
            assert rows is not None
            some = _SomeEnded(ending, -(-len(rows.indices) // SHARE))
            oldest = int(rows.ids.shape[1] - rows.starts.min())
            settings.max_new_tokens = max_new_tokens - oldest
            rows.ids = model.generate(  # type: ignore[operator]  # nn.Module hides it
                input_ids=rows.ids,
                attention_mask=rows.mask,
                past_key_values=rows.cache,
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([some]),
                synced_gpus=False,  # of a sharded model, every pass is kept in step
            )
        found = [
            ids[start:] for ids, start in zip(rows.ids.tolist(), rows.starts.tolist(), strict=True)
        ]
        ended = [len(one) >= max_new_tokens or not ends.isdisjoint(one) for one in found]
        answers = list(compress(zip(rows.indices, found, strict=True), ended))
        rows = _without(rows, ended)
        yield from answers


@dataclass
class _Rows:
    """Rows that are being decoded.

    Attributes:
        indices: Of their prompts.
        ids: ``(rows, width)``: what each row consists of so far.
        mask: ``(rows, width)``, 1 for tokens, 0 for what only pads.
        starts: ``(rows,)``: the place of the first generated token.
        cache: Keys and values of all but the last token.
    """

    indices: list[int]
    ids: Tensor
    mask: Tensor
    starts: Tensor
    cache: Any


def _start(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    indices: list[int],
    prefix: Prefix,
    pad: int,
) -> _Rows:
    """Compute the keys and values of prompts, but for their last token, which generation reads."""
    chosen = [prompts[index] for index in indices]
    # Before the only token of a prompt there is padding.
    heads = [prompt[:-1] or [pad] for prompt in chosen]
    empty = DynamicCache(config=model.config)
    before = prefill(model, heads, (), pad=pad, prefix=prefix, cache=empty)
    before.mask[[len(prompt) == 1 for prompt in chosen]] = 0
    mask = F.pad(before.mask, (0, 1), value=1)
    ids = torch.full_like(mask, pad)  # laid out as the mask: the prefix, padding, the rest
    ids[mask.bool()] = torch.tensor([token for prompt in chosen for token in prompt]).to(ids)
    starts = ids.new_full((len(indices),), ids.shape[1])
    return _Rows(indices, ids, mask, starts, before.cache)


def _join(rows: _Rows, new: _Rows, pad: int) -> _Rows:
    """Both, as one batch: the narrower gets padding on its left."""
    width = max(rows.ids.shape[1], new.ids.shape[1])
    for some in (rows, new):
        missing = width - some.ids.shape[1]
        some.ids = F.pad(some.ids, (missing, 0), value=pad)
        some.mask = F.pad(some.mask, (missing, 0))
        some.starts = some.starts + missing
        for layer in some.cache.layers if missing else ():
            layer.keys = F.pad(layer.keys, (0, 0, missing, 0))
            layer.values = F.pad(layer.values, (0, 0, missing, 0))
    for layer, added in zip(rows.cache.layers, new.cache.layers, strict=True):
        layer.keys = torch.cat([layer.keys, added.keys])
        layer.values = torch.cat([layer.values, added.values])
    return _Rows(
        rows.indices + new.indices,
        torch.cat([rows.ids, new.ids]),
        torch.cat([rows.mask, new.mask]),
        torch.cat([rows.starts, new.starts]),
        rows.cache,
    )


def _without(rows: _Rows, ended: Sequence[bool]) -> _Rows | None:
    """The rows that go on, without the padding that all of them have; None if there are none."""
    places = [place for place, has_ended in enumerate(ended) if not has_ended]
    if not places:
        return None
    stay = torch.tensor(places, device=rows.ids.device)
    mask = F.pad(rows.mask, (0, rows.ids.shape[1] - rows.mask.shape[1]), value=1)[stay]
    spare = int(mask.argmax(dim=1).min())
    for layer in rows.cache.layers:
        layer.keys = layer.keys[stay, :, spare:]
        layer.values = layer.values[stay, :, spare:]
    return _Rows(
        [rows.indices[place] for place in places],
        rows.ids[stay, spare:],
        mask[:, spare:],
        rows.starts[stay] - spare,
        rows.cache,
    )


class _SomeEnded(StoppingCriteria):  # type: ignore[misc]  # to mypy it is Any
    """Stops all rows when enough of them have ended; the host reads nothing for it."""

    def __init__(self, ending: Tensor, enough: int) -> None:
        self.ending, self.enough = ending, enough
        self.ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        del scores
        now = torch.isin(input_ids[:, -1], self.ending)
        self.ended = now if self.ended is None else self.ended | now
        return (self.ended.sum() >= self.enough).expand(len(input_ids))
