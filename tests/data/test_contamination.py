"""Test questions that are in the training set are found, regardless of punctuation."""

import pytest

from toplora_train.data.contamination import contaminated_ids
from toplora_train.data.rows import Row
from toplora_train.data.sources import read_rows


def row(id, instruction, input=""):
    return Row(id, instruction, input, "", "")


def test_a_training_question_is_found_in_each_test_set():
    train = [row("t1", "How many?"), row("t2", "How much?")]
    tests = {"a": [row("a1", "How many?"), row("a2", "Why?")], "b": [row("b1", "How much?")]}
    assert contaminated_ids(train, tests) == {"a": ("a1",), "b": ("b1",)}


@pytest.mark.parametrize(
    "same",
    ["there are 7 Crayons in the drawer", " There are  7 crayons, in the drawer . \n"],
)
def test_case_punctuation_and_whitespace_are_ignored(same):
    train = "There are 7 crayons in the drawer."
    assert contaminated_ids([row("t", train)], {"a": [row("a1", same)]}) == {"a": ("a1",)}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("He has 3.5 litres.", "He has 35 litres."),
        ("He has 3 pens.", "He has 4 pens."),
        ("Ann sees Ben.", "Ben sees Ann."),
        ("Nach Köln?", "Nach Kln?"),
    ],
)
def test_numbers_words_and_their_order_matter(train, test):
    assert contaminated_ids([row("t", train)], {"a": [row("a1", test)]}) == {"a": ()}


def test_the_input_is_part_of_the_question():
    train = [row("t", "Translate.", "one")]
    tests = {"a": [row("a1", "Translate.", "one"), row("a2", "Translate.", "two")]}
    assert contaminated_ids(train, tests) == {"a": ("a1",)}


def test_the_demo_is_not_contaminated():
    train = read_rows("bundled:arithmetic/train.jsonl").rows
    test = read_rows("bundled:arithmetic/test.jsonl").rows
    assert contaminated_ids(train, {"demo": test}) == {"demo": ()}
    assert len(contaminated_ids(test, {"demo": test})["demo"]) == len(test)
