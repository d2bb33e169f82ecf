"""Slices, the held-out fifth and mixtures are exact, disjoint and the same every time."""

import random

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.parts import (
    HELD_OUT,
    REST_OF,
    hold_out,
    part,
    sliced,
    weighted,
    without_part,
)
from toplora_train.data.rows import Row
from toplora_train.data.shuffle import shuffled

ROWS = [Row(str(number), f"q{number}", "", "a", "") for number in range(10)]


@pytest.mark.parametrize(
    "split", ["train", "train[:10%]", "train[2:5]", "train[-3:]", "train[50%:]", "train[:-15%]"]
)
def test_slices_are_those_of_the_datasets_library(split):
    datasets = pytest.importorskip("datasets")
    instruction = datasets.ReadInstruction.from_spec(split).to_absolute({"train": 97})[0]
    want = list(range(97))[instruction.from_ : instruction.to]
    assert list(sliced(range(97), split, "a")) == want


@pytest.mark.parametrize("split", ["train[", "train[5]", "train[x:]", "train[20:30]"])
def test_a_slice_without_rows_or_sense_is_refused(split):
    with pytest.raises(UserError, match=r"train\["):
        sliced(ROWS, split, "a.csv")


def test_the_two_parts_are_disjoint_and_complete_and_random():
    held, rest = part(range(500), HELD_OUT, "a"), part(range(500), REST_OF, "a")
    assert sorted([*held, *rest]) == list(range(500))
    assert len(held) == 100
    assert held == part(range(500), HELD_OUT, "b") != list(range(100))
    assert list(part(range(500), "", "a")) == list(range(500))
    assert len(part(range(50_000), HELD_OUT, "a")) == 2000
    with pytest.raises(UserError, match="1 row cannot be divided"):
        part([1], HELD_OUT, "a")


@pytest.mark.parametrize("rows", [37, 500, 50_000])
def test_each_label_has_its_share_of_the_held_out_part(rows):
    labels = ["common" if n % 10 else "rare" if n % 20 else "rarer" for n in range(rows)]
    held = part(range(rows), HELD_OUT, "a", labels)
    assert sorted([*held, *part(range(rows), REST_OF, "a", labels)]) == list(range(rows))
    for label in set(labels):
        share = labels.count(label) * len(held) / rows
        assert abs(sum(labels[n] == label for n in held) - share) < 1
    assert held != part(range(rows), HELD_OUT, "a")


def test_a_part_is_named_before_its_source():
    assert without_part("held-out:a.csv") == ("held-out:", "a.csv")
    assert without_part("a.csv") == ("", "a.csv")


def test_a_weight_repeats_rows_and_a_fraction_draws_some():
    mixed = list(weighted(ROWS, 2.5))
    assert [sum(row.instruction == one.instruction for row in mixed) for one in ROWS].count(3) == 5
    assert len(mixed) == 25
    assert len({row.id for row in mixed}) == 25
    assert list(weighted(ROWS, 1)) == ROWS
    assert list(weighted(ROWS, 0.5)) == list(weighted(ROWS, 0.5))


def held_out(groups, held: int, *, seed: int) -> tuple[list[int], list[int]]:
    train, validation = hold_out(groups, held, seed=seed)
    return train.tolist(), validation.tolist()


@pytest.mark.parametrize("held", [0, 1, 7, 19])
def test_every_row_is_in_one_split_and_both_are_sorted(held):
    train, validation = held_out(range(20), held, seed=1)
    assert sorted([*train, *validation]) == list(range(20))
    assert (len(validation), train, validation) == (held, sorted(train), sorted(validation))


def test_the_draw_depends_on_the_seed():
    assert held_out(range(100), 10, seed=1) == held_out(range(100), 10, seed=1)
    assert held_out(range(100), 10, seed=1) != held_out(range(100), 10, seed=2)


def test_a_larger_draw_contains_the_smaller_one():
    assert set(held_out(range(100), 5, seed=1)[1]) < set(held_out(range(100), 10, seed=1)[1])


def test_no_rows_left_for_training_is_an_error_that_names_the_key():
    with pytest.raises(UserError, match=r"dataset\.validation_rows=20 leaves none of the 20 rows"):
        held_out(range(20), 20, seed=1)


def test_copies_of_a_row_are_held_out_together():
    groups = [number // 3 for number in range(30)]
    train, validation = held_out(groups, 4, seed=1)
    assert len(validation) == 6
    assert not {groups[index] for index in train} & {groups[index] for index in validation}


@pytest.mark.parametrize("held", [0, 1, 5, 12])
def test_groups_are_drawn_in_a_shuffled_order_until_enough_rows_are_held_out(held):
    groups = [7, 7, 3, 1, 1, 1, 3, 9, 7, 2, 2, 5, 5, 9, 0, 4]
    drawn: set[int] = set()
    for index in shuffled(range(len(groups)), random.Random("validation/1")):
        if len(drawn) < held:
            drawn |= {at for at, group in enumerate(groups) if group == groups[index]}
    assert held_out(groups, held, seed=1)[1] == sorted(drawn)
