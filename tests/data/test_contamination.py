"""Test questions that are in the training set are found, regardless of punctuation."""

import unicodedata
from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.contamination import contaminated_ids, validate_overlap, validate_sources
from toplora_train.data.renamed import parse_renamed
from toplora_train.data.rows import Row, parse_row
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


ABOUT = "About {passage}: {instruction}"


def asked(passage, prompt=ABOUT):
    record = {"instruction": "What is it about?", "passage": passage, "output": "x"}
    return parse_renamed(record, names={}, prompt=prompt, place="row 1", default_id=passage)


def test_one_question_on_other_passages_is_another_question():
    train = [asked("cats"), asked("dogs")]
    tests = {"a": [asked("birds"), asked("fish")], "b": [asked("birds"), asked("Dogs.")]}
    assert contaminated_ids(train, tests) == {"a": (), "b": ("Dogs.",)}


@pytest.mark.parametrize("prompt", ["Q: {instruction} ({passage})", "Q: {instruction}", None])
def test_a_question_is_found_under_another_template_or_none(prompt):
    there = [asked("cats"), asked("dogs")]
    for train, test in ((there, asked("dogs", prompt)), ([asked("dogs", prompt)], there[1])):
        assert contaminated_ids(train, {"a": [test]}) == {"a": ("dogs",)}


def talk(*contents, tools=None):
    roles = ["system", *["user", "assistant"] * len(contents)]
    messages = [
        {"role": role, "content": text} for role, text in zip(roles, contents, strict=False) if text
    ]
    return parse_row({"messages": messages, "tools": tools}, place="row 1", default_id=contents[0])


@pytest.mark.parametrize(
    ("train", "found"),
    [
        (talk("It is about dogs", "What is it about?", "Dogs."), ("It is about dogs.",)),
        (talk("", "What is it about?", "Dogs."), ("It is about dogs.",)),
        (talk("It is about cats.", "What is it about?", "Cats."), ()),
    ],
)
def test_a_conversation_is_found_unless_its_system_message_is_another(train, found):
    test = talk("It is about dogs.", "What is it about?")
    assert contaminated_ids([train], {"a": [test]}) == {"a": found}


def test_earlier_answers_and_tools_are_part_of_a_conversation():
    def one(name, answer, tool):
        tools = [{"type": "function", "function": {"name": tool}}]
        return replace(talk("", "Who?", answer, "Why?", tools=tools), id=name)

    tests = [one("same", "I.", "look"), one("answer", "You.", "look"), one("tool", "I.", "ask")]
    assert contaminated_ids([one("t", "I.", "look")], {"a": tests}) == {"a": ("same",)}


def test_a_conversation_is_found_among_plain_rows():
    train = talk("Be brief.", "How many?", "7")
    assert contaminated_ids([train], {"a": [row("a1", "How many?")]}) == {"a": ("a1",)}


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
