"""A permutation that is reproducible on other machines."""

import random

import pytest

from toplora_train.data.shuffle import permutation, shuffled


def test_every_item_is_kept_and_the_input_is_unchanged():
    items = list("abcdefgh")
    result = shuffled(items, random.Random(0))
    assert sorted(result) == items == list("abcdefgh")
    assert result != items


def test_equal_seeds_give_equal_orders_and_others_do_not():
    items = range(100)
    assert shuffled(items, random.Random(1)) == shuffled(items, random.Random(1))
    assert shuffled(items, random.Random(1)) != shuffled(items, random.Random(2))


def test_each_item_is_first_about_equally_often():
    rng = random.Random(3)
    firsts = [shuffled("abcd", rng)[0] for _ in range(4000)]
    assert all(850 < firsts.count(item) < 1150 for item in "abcd")  # 5 standard deviations


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_permutation_shuffles_as_a_list_is_shuffled(count):
    expected = shuffled(range(count), random.Random(3))
    assert permutation(count, random.Random(3)).tolist() == expected
