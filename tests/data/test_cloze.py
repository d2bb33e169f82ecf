"""LLM-Adapters' multiple-choice rows in cloze form."""

import re

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.cloze import as_cloze
from toplora_train.data.conversation import Message
from toplora_train.data.rows import Row, RowSet, content_hash

SIQA = (
    "Please choose the correct answer to the question: Kai was late. How does he feel?\n\n"
    "Answer1: in a hurry Answer2: calm: at ease Answer3: hungry\n\n"
    "Answer format: answer1/answer2/answer3"
)
PIQA = (
    "Please choose the correct solution to the question: dresser\n\n"
    "Solution1: use a  pin \n\nSolution2: use a solution1 bottle\n\n"
    "Answer format: solution1/solution2"
)
WINOGRANDE = (
    "Please choose the correct answer to fill in the blank to complete the given sentence: "
    "Ann met Bea so _ waved.\n\nOption1: Ann Option2: Bea Answer format: option1/option2"
)
BOOLQ = (
    "Please answer the following question with true or false, question: is it so?\n\n"
    "Answer format: true/false"
)


def cloze(instruction: str, answer: str, **more) -> Row:
    row = Row("7", instruction, "", f"the correct answer is {answer}", answer, **more)
    return as_cloze(RowSet((row,), "f.json", content_hash([row]))).rows[0]


@pytest.mark.parametrize(
    ("instruction", "answer", "question", "words"),
    [
        (
            SIQA,
            "answer2",
            "Kai was late. How does he feel?",
            ["in a hurry", "calm: at ease", "hungry"],
        ),
        (PIQA, "solution1", "dresser", ["use a  pin", "use a solution1 bottle"]),
        (WINOGRANDE, "option2", "Ann met Bea so _ waved.", ["Ann", "Bea"]),
        (BOOLQ, "false", "is it so?", ["true", "false"]),
    ],
    ids=["social_i_qa", "piqa", "winogrande", "boolq"],
)
def test_listed_options_are_parsed_and_the_gold_option_is_the_output(
    instruction, answer, question, words
):
    row = cloze(instruction, answer)
    assert row.instruction.endswith(f": {question}")
    assert [text for _, text in row.options] == words
    assert row.output == dict(row.options)[answer]
    assert row.answer == answer  # the label, so that the majority class is unchanged


def test_options_in_another_order_than_their_labels_keep_their_labels():
    row = cloze(
        WINOGRANDE.replace("Option1: Ann Option2: Bea", "Option2: Bea Option1: Ann"), "option1"
    )
    assert row.options == (("option1", "Ann"), ("option2", "Bea"))
    assert row.output == "Ann"


def test_the_hash_depends_on_the_options():
    one, other = (cloze(WINOGRANDE.replace("Bea ", name), "option1") for name in ("Bea ", "Cy "))
    assert content_hash([one]) != content_hash([other])


@pytest.mark.parametrize(
    ("instruction", "answer", "more", "message"),
    [
        ("What is 1 + 1?", "2", {}, "row '7': it does not list its options"),
        (BOOLQ, "true", {"messages": (Message("user", BOOLQ),)}, "it does not list its options"),
        (SIQA.replace("Answer2:", "Answer 2"), "answer1", {}, "does not list one option for each"),
        (SIQA.replace("hungry", ""), "answer1", {}, "does not list one option for each"),
        (SIQA.replace("Answer3", "answer2"), "answer1", {}, "does not list one option for each"),
        (BOOLQ, "yes", {}, "row '7': its answer 'yes' is not one of true, false"),
    ],
    ids=[
        "no format",
        "conversation",
        "a label is missing",
        "an empty option",
        "a label twice",
        "another label",
    ],
)
def test_a_row_without_a_cloze_form_is_named(instruction, answer, more, message):
    with pytest.raises(UserError, match=re.escape(message)):
        cloze(instruction, answer, **more)
