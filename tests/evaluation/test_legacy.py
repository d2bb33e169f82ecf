import json

import pytest

from toplora_train.config.errors import UserError
from toplora_train.evaluation.answers import extract_answer, is_correct
from toplora_train.evaluation.legacy import (
    extract_after_last_header,
    extract_before_next_header,
    is_correct_legacy,
    legacy_pattern,
)

PATTERNS = {
    ("true", "false"): "true|false",
    ("solution1", "solution2"): "solution1|solution2",
    ("answer1", "answer2", "answer3"): "answer1|answer2|answer3|answer4|answer5",
    ("answer1", "answer2", "answer3", "answer4"): "answer1|answer2|answer3|answer4|answer5",
    ("ending1", "ending2", "ending3", "ending4"): "ending1|ending2|ending3|ending4",
    ("option1", "option2"): "option1|option2",
    ("A", "B", "C", "D", "E"): "A|B|C|D|E",
}


@pytest.mark.parametrize(("choices", "pattern"), PATTERNS.items())
def test_each_task_has_the_scripts_pattern(choices, pattern):
    assert legacy_pattern(choices) == pattern


@pytest.mark.parametrize(
    ("text", "choices", "found"),
    [
        ("it is False, not false: true", ("true", "false"), "false"),
        ("untrue", ("true", "false"), "true"),
        ("answer4 or answer1", ("answer1", "answer2", "answer3"), "answer4"),
        ("All in all the answer is C", ("A", "B", "C", "D", "E"), "A"),
        ("the answer is (c)", ("A", "B", "C", "D", "E"), None),
    ],
)
def test_the_first_match_counts_by_case_and_inside_words(text, choices, found):
    assert extract_after_last_header(text, "choice", choices) == found


@pytest.mark.parametrize(
    ("text", "found", "label", "right"),
    [
        ("5 + 7 = 12", "12", "12.0", True),
        ("It costs $1,234.50 today", "1234.50", "1234.5", True),
        ("so it is 3.", "3.", "3", True),
        ("10-4", "-4", "4", False),
        ("none", None, "4", False),
        ("2.9995", "2.9995", "3", True),
        ("2.998", "2.998", "3", False),
    ],
)
def test_the_last_number_counts_within_a_thousandth(text, found, label, right):
    assert extract_after_last_header(text, "number", ()) == found
    assert is_correct_legacy(found, label, "number") is right


@pytest.mark.parametrize("label", ["2,000", "$5", "1/2"])
def test_a_label_that_the_scripts_cannot_read_is_refused(label):
    for prediction in (None, "5"):
        with pytest.raises(UserError, match=r"its answer '.*' is not a number that the legacy"):
            is_correct_legacy(prediction, label, "number")


def test_the_scripts_differ_at_a_second_response_header():
    text = "4\n### Response:\n 5"
    assert extract_after_last_header(text, "number", ()) == "5"
    assert extract_before_next_header(text, "number", ()) == "4"


def test_an_extraction_without_a_legacy_rule_is_refused():
    with pytest.raises(UserError, match="no rule for the choices wet, dry"):
        legacy_pattern(["wet", "dry"])
    with pytest.raises(UserError, match="no rule for the choices \\(none\\)"):
        extract_after_last_header("", "choice", ())
    with pytest.raises(UserError, match="no rule for extraction: exact"):
        extract_before_next_header("", "exact", ())


def test_accuracy_of_the_legacy_extractor_on_aqua_rationales(shared_dir):
    path = shared_dir / "data/llm-adapters/dataset/AQuA/test.json"
    rows = json.loads(path.read_text())
    letters = ["A", "B", "C", "D", "E"]

    def accuracy(extract, is_right):
        return sum(
            is_right(extract(row["output"], "choice", letters), row["answer"], "choice")
            for row in rows
        ) / len(rows)

    assert len(rows) == 254
    assert accuracy(extract_after_last_header, is_correct_legacy) == pytest.approx(0.429, abs=5e-4)
    assert accuracy(extract_answer, is_correct) >= 0.48
