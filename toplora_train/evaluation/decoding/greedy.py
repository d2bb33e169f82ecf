"""Greedy decoding of a batch that rows leave as they end.

transformers computes every row of a batch until its last one has ended, and of math answers the
longest has two to three times the mean's tokens. Here a batch is decoded until a quarter of its
rows have ended; they leave, with their keys and values, and the others go on. A row's tokens are
those of any other batch, to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from toplora_train.evaluation.decoding.prefix import grows_by_row
from toplora_train.evaluation.forward import forward_takes

SHARE = 4
"""A batch is continued without its ended rows when one row of so many has ended."""


def new_cache(model: nn.Module) -> DynamicCache | None:
    """An empty cache that rows can leave; None for a model that keeps another kind of state."""
    if not (forward_takes(model, "position_ids") and forward_takes(model, "past_key_values")):
        return None
    cache = DynamicCache(config=model.config)
    return cache if grows_by_row(cache) else None


def decode_greedily(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    cache: Any,
    settings: GenerationConfig,
    ends: Set[int],
) -> list[list[int]]:
    """The tokens that follow each row, up to its first end or ``settings.max_new_tokens``.

    Args:
        model: A causal language model.
        inputs: ``input_ids`` and ``attention_mask``, ``(rows, width)``, left-padded.
        cache: Keys and values of the rows' first tokens, or none yet; consumed.
        settings: Of greedy decoding.
        ends: The ids that end a row.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    width, ending = ids.shape[1], torch.tensor(sorted(ends), device=ids.device, dtype=ids.dtype)
    rows, answers = list(range(len(ids))), dict[int, list[int]]()
    while rows:
        rest = copy.copy(settings)
        rest.max_new_tokens = settings.max_new_tokens - (ids.shape[1] - width)
        ids = model.generate(  # type: ignore[operator]  # nn.Module hides it
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=rest,
            stopping_criteria=StoppingCriteriaList([_SomeEnded(ending, -(-len(rows) // SHARE))]),
            synced_gpus=False,  # of a sharded model, every pass is kept in step
        )
        answer = ids[:, width:]
        ended = torch.isin(answer, ending).any(dim=1) | (answer.shape[1] >= settings.max_new_tokens)
        for place in ended.nonzero().flatten().tolist():
            answers[rows[place]] = answer[place].tolist()
        stay = (~ended).nonzero().flatten()
        rows = [rows[place] for place in stay.tolist()]
        cache.batch_select_indices(stay)
        mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)
        ids, mask = ids[stay], mask[stay]
    return [answers[row] for row in range(len(answers))]


class _SomeEnded(StoppingCriteria):
    """Stops the whole batch when ``leave`` of its rows have ended, without a look by the host."""

    def __init__(self, ending: Tensor, leave: int) -> None:
        self.ending, self.leave = ending, leave
        self.ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        now = torch.isin(input_ids[:, -1], self.ending)
        self.ended = now if self.ended is None else self.ended | now
        return (self.ended.sum() >= self.leave).expand(len(input_ids))
