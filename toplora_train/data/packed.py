"""Rows laid end to end as one: nothing is padded, so nothing is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toplora_train.data.batches import IGNORE
from toplora_train.data.encode import Example


def pack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """One row of all tokens, ``(1, tokens)``: ``input_ids``, ``position_ids``, ``labels``.

    The positions begin anew with every example, by which transformers' attention tells them apart:
    there must be no attention mask. The first token of an example, which the example before it
    knows nothing of, is never learned.

    Raises:
        ValueError: There is no example.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for example in examples:
        length, learned = len(example.input_ids), max(1, example.prompt_length)
        ids += example.input_ids
        positions += range(length)
        labels += [IGNORE] * min(learned, length) + list(example.input_ids[learned:])
    return {
        name: torch.tensor([values], dtype=torch.long)
        for name, values in {"input_ids": ids, "position_ids": positions, "labels": labels}.items()
    }
