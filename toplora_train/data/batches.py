"""Batching: sampling, padding and collation."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toplora_train.data.encode import Example
from toplora_train.data.on_disk import Lazy
from toplora_train.data.shuffle import permutation

Item = TypeVar("Item")
Lengths = Sequence[int] | NDArray[Any]

IGNORE = -100  # ignore_index of torch's cross entropy
BUCKET = 50  # batches sorted by length together: little padding, but rows are still well mixed


def epoch_batches(
    lengths: Lengths, *, batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> Sequence[list[int]]:
    """One epoch as lists of row indices: every index once; only the last batch may be smaller.

    The order depends only on ``(seed, epoch)``, so a run can resume from its step count. With
    ``group_by_length`` the shuffled rows are sorted by length within buckets of 50 batches and the
    batches are shuffled again; the batch with the longest row comes first, so that a run that does
    not fit in memory fails at its first step. The rows of a smaller last batch are drawn before
    sorting and so are not selected by length.

    Args:
        lengths: Tokens of each row.
        batch_size: The global batch size, in rows.
        seed: The run's seed.
        epoch: The epoch, counted from 0.
        group_by_length: Whether to batch rows of similar length.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    rng = random.Random(f"{seed}/{epoch}")
    order, sizes = permutation(len(lengths), rng), np.asarray(lengths)
    if not group_by_length:
        return _Batches(order, batch_size)
    full = len(order) - len(order) % batch_size
    for start in range(0, full, BUCKET * batch_size):
        bucket = order[start : min(start + BUCKET * batch_size, full)]
        bucket[:] = bucket[np.argsort(-sizes[bucket], kind="stable")]
    batches = order[:full].reshape(-1, batch_size)
    batches[:] = batches[permutation(len(batches), rng)]
    if full:
        longest = int(np.argmax(sizes[batches[:, 0]]))
        batches[[0, longest]] = batches[[longest, 0]]
    return _Batches(order, batch_size)


class _Batches(Lazy[list[int]]):
    """Consecutive rows of an order, ``size`` at a time."""

    def __init__(self, order: NDArray[Any], size: int) -> None:
        self._order, self._size = order, size

    def __len__(self) -> int:
        return -(-len(self._order) // self._size)

    def item(self, index: int) -> list[int]:
        rows: list[int] = self._order[index * self._size : (index + 1) * self._size].tolist()
        return rows


def padding_fraction(
    lengths: Lengths, batches: Iterable[Sequence[int]], *, micro_batch_size: int
) -> float:
    """The fraction of positions in the forward passes that are padding.

    A batch is split into micro-batches in order, and each is padded to its longest row.
    """
    tokens = padded = 0
    for batch in batches:
        for micro in _slices(batch, micro_batch_size):
            of_micro = [int(lengths[row]) for row in micro]
            tokens += sum(of_micro)
            padded += len(micro) * max(of_micro)
    return 1 - tokens / padded if padded else 0.0


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Right-padded tensors ``(rows, longest)``: ``input_ids``, ``attention_mask``, ``labels``.

    Labels and attention are masked by position, not by id, so the model still learns to stop if the
    padding token is EOS.

    Raises:
        ValueError: There are no examples.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    longest = max(len(example.input_ids) for example in examples)
    shape = (len(examples), longest)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE, dtype=torch.long)
    for index, example in enumerate(examples):
        ids = torch.tensor(example.input_ids, dtype=torch.long)
        input_ids[index, : len(ids)] = ids
        attention_mask[index, : len(ids)] = 1
        learned = torch.tensor(example.learned, dtype=torch.bool)
        labels[index, : len(ids)][learned] = ids[learned]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _slices(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


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
