"""Packing: rows concatenated without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toplora_train.data.batches import IGNORE
from toplora_train.data.encode import Example


def pack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Concatenate examples, ``(1, tokens)``: ``input_ids``, ``position_ids``, ``labels``.

    Positions restart with every example, which transformers' attention uses to separate them; there
    must be no attention mask. The first token of an example is never supervised, as it would be
    predicted from the previous example.

    Raises:
        ValueError: There are no examples.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for example in examples:
        ids += example.input_ids
        positions += range(len(example.input_ids))
        learned = (0, *example.learned[1:])
        labels += [
            id if one else IGNORE for id, one in zip(example.input_ids, learned, strict=True)
        ]
    return {
        name: torch.tensor([values], dtype=torch.long)
        for name, values in {"input_ids": ids, "position_ids": positions, "labels": labels}.items()
    }
