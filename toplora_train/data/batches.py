"""Batching: sampling, padding and collation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from toplora_train.data.encode import Example
from toplora_train.data.shuffle import shuffled

Item = TypeVar("Item")

IGNORE = -100  # ignore_index of torch's cross entropy
BUCKET = 50  # batches sorted by length together: little padding, but rows are still well mixed


def epoch_batches(
    lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[list[int]]:
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
    order = shuffled(range(len(lengths)), rng)
    if not group_by_length:
        return _slices(order, batch_size)
    full = len(order) - len(order) % batch_size
    batches: list[list[int]] = []
    for bucket in _slices(order[:full], BUCKET * batch_size):
        batches += _slices(sorted(bucket, key=lambda row: -lengths[row]), batch_size)
    batches = shuffled(batches, rng)
    if batches:
        longest = max(range(len(batches)), key=lambda index: lengths[batches[index][0]])
        batches[0], batches[longest] = batches[longest], batches[0]
    return batches + _slices(order[full:], batch_size)


def padding_fraction(
    lengths: Sequence[int], batches: Sequence[Sequence[int]], *, micro_batch_size: int
) -> float:
    """The fraction of positions in the forward passes that are padding.

    A batch is split into micro-batches in order, and each is padded to its longest row.
    """
    tokens = padded = 0
    for batch in batches:
        for micro in _slices(batch, micro_batch_size):
            tokens += sum(lengths[row] for row in micro)
            padded += len(micro) * max(lengths[row] for row in micro)
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
