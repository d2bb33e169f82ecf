"""Test questions that are in the training set are found, regardless of punctuation."""

import unicodedata

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.contamination import contaminated_ids, validate_overlap, validate_sources
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
    [
        "there are 7 Crayons in the drawer",
        " There are  7 crayons, in the drawer . \n",
        "There are 7 crayons in the \N{FULLWIDTH LATIN SMALL LETTER D}rawer",
    ],
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
        ("What is a + 7?", "What is a - 7?"),
        ("What is x / y?", "What is x * y?"),
        ("Is -3 > 5?", "Is 3 < 5?"),
        ("\N{GRINNING FACE}", "\N{CRYING FACE}"),
        ("...", "?!"),
        ("\N{DEVANAGARI LETTER KA}\N{DEVANAGARI VOWEL SIGN I}", "\N{DEVANAGARI LETTER KA}"),
    ],
)
def test_numbers_words_and_their_order_matter(train, test):
    assert contaminated_ids([row("t", train)], {"a": [row("a1", test)]}) == {"a": ()}


def test_a_question_is_found_in_another_unicode_form():
    train = row("t", unicodedata.normalize("NFD", "Où est né Ångström ?"))
    test = row("a1", unicodedata.normalize("NFC", "où est né Ångström?"))
    assert contaminated_ids([train], {"a": [test]}) == {"a": ("a1",)}


def test_the_input_is_part_of_the_question():
    train = [row("t", "Translate.", "one")]
    tests = {"a": [row("a1", "Translate.", "one"), row("a2", "Translate.", "two")]}
    assert contaminated_ids(train, tests) == {"a": ("a1",)}


def test_the_demo_is_not_contaminated():
    train = read_rows("bundled:arithmetic/train.jsonl").rows
    test = read_rows("bundled:arithmetic/test.jsonl").rows
    assert contaminated_ids(train, {"demo": test}) == {"demo": ()}
    assert len(contaminated_ids(test, {"demo": test})["demo"]) == len(test)


LEAKY = "llm-adapters:ft-training_set/math_data.json"


@pytest.mark.parametrize("source", [LEAKY, "/data/math_data.json", "math_data.json"])
def test_data_known_to_contain_test_rows_is_refused_anywhere(source):
    with pytest.raises(UserError, match=r"contains about 80 %.*dataset\.allow_leaks=\[math_data"):
        validate_sources(["rows.jsonl", source], allowed=[])


def test_it_can_be_allowed_by_name():
    validate_sources([LEAKY], allowed=["math_data.json"])


def test_other_data_is_accepted():
    validate_sources(["llm-adapters:ft-training_set/math_10k.json", "owner/name"], allowed=[])


def test_too_large_an_overlap_is_refused_with_count_and_examples():
    found = {"a": ["a-1"], "b": ["b-1", "b-2", "b-3", "b-4"]}
    sizes = {"a": 100, "b": 10}
    validate_overlap(found, sizes, most=0.4)
    with pytest.raises(
        UserError, match=r"4 of the 10 test rows of b are also .*\(b-1, b-2, b-3, \.\.\.\)"
    ):
        validate_overlap(found, sizes, most=0.1)


def test_a_limit_of_one_disables_the_check():
    validate_overlap({"a": ["x"]}, {"a": 1}, most=1.0)
