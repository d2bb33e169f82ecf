"""Labelled records become rows, and labels that are none of the classes are refused."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.labels import parse_labelled
from toplora_train.data.rows import Row

PAIR = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
ANSWERS = ("different", "same")


def parse(fields: object, choices: tuple[str, ...] = ANSWERS, **columns) -> Row:
    named = PAIR | columns
    return parse_labelled(
        fields, place="a.jsonl, line 3", default_id="a-3", choices=choices, **named
    )


def test_a_class_number_becomes_the_name_of_its_class():
    row = parse({"sentence1": "x", "sentence2": "y", "label": 1, "idx": 7})
    assert row == Row("a-3", "x", "y", "", "same")


def test_a_class_name_is_kept_and_a_single_text_has_no_second():
    row = parse({"sentence1": "x", "label": "different", "id": 5}, text_pair=None)
    assert row == Row("5", "x", "", "", "different")


def test_a_float32_target_is_read_as_its_short_decimal():
    fields = {"sentence1": "x", "sentence2": "y", "label": 3.799999952316284}
    assert parse(fields, choices=()).answer == "3.8"
    assert parse(fields | {"label": 5}, choices=()).answer == "5"
    assert parse(fields | {"label": "0.25"}, choices=()).answer == "0.25"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sentence1": "x", "label": 1}, "no 'sentence2' (found: sentence1, label)"),
        ({"sentence1": "x", "sentence2": "y"}, "no 'label' (found: sentence1, sentence2)"),
        ({"sentence1": "x", "sentence2": "y", "label": None}, "'label' is null; rows of"),
        ({"sentence1": "x", "sentence2": "y", "label": -1}, "hidden label"),
        ({"sentence1": "x", "sentence2": "y", "label": 2}, "none of the choices (0 different, 1 s"),
        ({"sentence1": "x", "sentence2": "y", "label": "alike"}, '"alike", which is none of the'),
        ({"sentence1": "x", "sentence2": "y", "label": True}, "true, which is none of the"),
        ({"sentence1": "x", "sentence2": " ", "label": 1}, "'sentence2' is empty"),
        ({"sentence1": 4, "sentence2": "y", "label": 1}, "'sentence1' must be text, not a number"),
        (["x", "y", 1], "a row must be an object with 'sentence1', 'sentence2', 'label'"),
    ],
)
def test_an_invalid_row_is_an_error_that_names_it(fields, message: str):
    with pytest.raises(UserError) as error:
        parse(fields)
    assert str(error.value).startswith("a.jsonl, line 3: ")
    assert message in str(error.value)


@pytest.mark.parametrize("label", ["often", float("nan"), False, [1]])
def test_a_regression_label_must_be_a_number(label: object):
    with pytest.raises(UserError, match="but must be a finite number"):
        parse({"sentence1": "x", "sentence2": "y", "label": label}, choices=())
