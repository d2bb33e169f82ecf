"""Validation rows are drawn by the seed and are not trained on."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.split import hold_out


@pytest.mark.parametrize("held", [0, 1, 7, 19])
def test_every_row_is_in_one_split_and_both_are_sorted(held):
    train, validation = hold_out(range(20), held, seed=1)
    assert sorted([*train, *validation]) == list(range(20))
    assert (len(validation), train, validation) == (held, sorted(train), sorted(validation))


def test_the_draw_depends_on_the_seed():
    assert hold_out(range(100), 10, seed=1) == hold_out(range(100), 10, seed=1)
    assert hold_out(range(100), 10, seed=1) != hold_out(range(100), 10, seed=2)


def test_a_larger_draw_contains_the_smaller_one():
    assert set(hold_out(range(100), 5, seed=1)[1]) < set(hold_out(range(100), 10, seed=1)[1])


def test_no_rows_left_for_training_is_an_error_that_names_the_key():
    with pytest.raises(UserError, match=r"dataset\.validation_rows=20 leaves none of the 20 rows"):
        hold_out(range(20), 20, seed=1)


def test_copies_of_a_row_are_held_out_together():
    groups = [number // 3 for number in range(30)]
    train, validation = hold_out(groups, 4, seed=1)
    assert len(validation) == 6
    assert not {groups[index] for index in train} & {groups[index] for index in validation}
