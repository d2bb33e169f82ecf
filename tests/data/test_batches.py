"""Batches: every row once, reproducible, little padding, masks by position."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from toplora_train.data.batches import IGNORE, collate, epoch_batches, pack, padding_fraction
from toplora_train.data.encode import Example
from toplora_train.data.shuffle import shuffled


def batches_of(lengths, batch_size=4, seed=1, epoch=0, group_by_length=True):
    return epoch_batches(
        lengths, batch_size=batch_size, seed=seed, epoch=epoch, group_by_length=group_by_length
    )


@pytest.fixture(scope="module")
def lengths():
    rng = random.Random(0)
    return [int(rng.lognormvariate(4.5, 0.5)) + 8 for _ in range(3001)]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 9, 1000])
def test_every_row_occurs_once_and_only_the_last_batch_is_smaller(count, grouped):
    batches = batches_of([7 + i % 5 for i in range(count)], group_by_length=grouped)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert all(len(batch) == 4 for batch in batches[:-1])
    assert len(batches) == -(-count // 4)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_depends_only_on_seed_and_epoch(lengths, grouped):
    first = batches_of(lengths, group_by_length=grouped)
    random.seed(5)
    torch.manual_seed(5)
    assert batches_of(lengths, group_by_length=grouped) == first
    assert batches_of(lengths, epoch=1, group_by_length=grouped) != first
    assert batches_of(lengths, seed=2, group_by_length=grouped) != first


def test_swapping_seed_and_epoch_changes_the_order(lengths):
    assert batches_of(lengths, seed=1, epoch=2) != batches_of(lengths, seed=2, epoch=1)
    assert batches_of(lengths, seed=1, epoch=11) != batches_of(lengths, seed=11, epoch=1)


def test_the_order_is_the_same_in_every_process():
    """Each test process has a hash seed of its own."""
    assert batches_of(range(9), batch_size=2, epoch=0) == [[8, 7], [2, 1], [6, 5], [4, 3], [0]]


def test_grouping_removes_most_of_the_padding(lengths):
    loose = batches_of(lengths, batch_size=16, group_by_length=False)
    tight = batches_of(lengths, batch_size=16)
    assert padding_fraction(lengths, loose, micro_batch_size=16) > 0.3
    assert padding_fraction(lengths, tight, micro_batch_size=16) < 0.05
    assert padding_fraction(lengths, tight, micro_batch_size=4) < 0.05


def test_grouped_batches_are_not_sorted_by_length(lengths):
    tight = batches_of(lengths, batch_size=16)
    means = [sum(lengths[row] for row in batch) / len(batch) for batch in tight[1:-1]]
    rises = sum(later > earlier for earlier, later in pairwise(means))
    assert 0.35 < rises / len(means) < 0.65


def test_the_batch_with_the_longest_row_is_the_first(lengths):
    full = batches_of(lengths[:3000], batch_size=16, group_by_length=True)[:-1]
    longest = max(lengths[row] for batch in full for row in batch)
    assert max(lengths[row] for row in full[0]) == longest


def test_batches_change_from_epoch_to_epoch(lengths):
    first, second = (
        {frozenset(batch) for batch in batches_of(lengths, epoch=epoch)} for epoch in (0, 1)
    )
    assert len(first & second) < 5


def test_the_smaller_last_batch_is_not_selected_by_length():
    lengths = list(range(1, 10))
    rests = {batches_of(lengths, batch_size=8, epoch=epoch)[-1][0] for epoch in range(60)}
    assert rests == set(range(9))


def test_a_batch_size_below_one_is_an_error():
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        batches_of([1, 2], batch_size=0)


def test_padding_is_counted_within_micro_batches():
    lengths = [4, 4, 2, 2]
    assert padding_fraction(lengths, [[0, 1, 2, 3]], micro_batch_size=4) == 4 / 16
    assert padding_fraction(lengths, [[0, 1, 2, 3]], micro_batch_size=2) == 0
    assert padding_fraction(lengths, [[0, 2], [1, 3]], micro_batch_size=2) == 4 / 16
    assert padding_fraction(lengths, [], micro_batch_size=2) == 0


def test_padding_fraction_matches_collate(lengths):
    lengths = [min(length, 50) for length in lengths[:30]]
    examples = [Example(tuple(range(1, length + 1)), 1) for length in lengths]
    batches = batches_of(lengths)
    masks = [collate([examples[row] for row in batch], 0)["attention_mask"] for batch in batches]
    padded = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    assert padding_fraction(lengths, batches, micro_batch_size=4) == pytest.approx(padded)


def test_collate_pads_on_the_right_and_masks_prompt_and_padding():
    batch = collate([Example((5, 6, 7, 8), 2), Example((5, 9), 1)], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE, IGNORE, 7, 8], [IGNORE, 9, IGNORE, IGNORE]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_eos_is_supervised_even_if_it_is_the_padding_token():
    eos = 1
    batch = collate([Example((5, 6, eos), 1), Example((5, eos), 1)], pad_token_id=eos)
    assert batch["labels"].tolist() == [[IGNORE, 6, eos], [IGNORE, eos, IGNORE]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_masked_labels_are_ignored_by_cross_entropy():
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORE


def test_an_empty_batch_is_an_error():
    with pytest.raises(ValueError, match="at least one example"):
        collate([], 0)


def test_rows_are_concatenated_and_positions_restart_at_zero():
    batch = pack([Example((5, 6, 7), 2), Example((8, 9), 1)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7, -100, 9]]
    assert "attention_mask" not in batch


def test_the_first_token_of_a_row_is_not_supervised():
    batch = pack([Example((5, 6), 0), Example((7, 8, 9), 0), Example((4,), 0)])
    assert batch["labels"].tolist() == [[-100, 6, -100, 8, 9, -100]]


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        pack([])


@pytest.mark.parametrize("count", [0, 3, 17, 1003])
def test_grouped_batches_are_those_of_the_definition(count):
    """Buckets of 50 shuffled batches sorted by length, shuffled again, the longest row first."""
    rng, lengths = random.Random("1/2"), [7 + i * i % 13 for i in range(count)]
    order = shuffled(range(count), rng)
    full = count - count % 4
    ordered = [
        row
        for start in range(0, full, 200)
        for row in sorted(order[start : min(start + 200, full)], key=lambda row: -lengths[row])
    ]
    batches = shuffled([ordered[start : start + 4] for start in range(0, full, 4)], rng)
    if batches:
        longest = max(range(len(batches)), key=lambda index: lengths[batches[index][0]])
        batches[0], batches[longest] = batches[longest], batches[0]
    expected = batches + ([order[full:]] if full < count else [])
    assert batches_of(lengths, seed=1, epoch=2) == expected
    assert batches_of(np.array(lengths, np.int32), seed=1, epoch=2) == expected
