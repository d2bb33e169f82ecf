import json
import math

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.fields import class_name, kind, label, lacks, number, shown, text
from toplora_train.data.labels import label_name
from toplora_train.data.tables import ClassNumber


def test_a_text_is_kept_as_it_stands_and_an_absent_one_is_empty():
    assert text({"a": " é \n"}, "a", "row 1") == " é \n"
    assert text({}, "a", "row 1") == ""


@pytest.mark.parametrize("value", [7, math.nan, None, ["x"], {"x": 1}])
def test_what_is_no_text_is_an_error_that_names_place_key_and_type(value: object):
    with pytest.raises(UserError) as error:
        text({"a": value}, "a", "row 1")
    assert str(error.value) == f"row 1: 'a' must be text, not {kind(value)}"


def test_half_a_character_is_an_error():
    with pytest.raises(UserError, match="row 1: 'a' contains half of"):
        text({"a": json.loads(r'"\ud83d"')}, "a", "row 1")


def test_a_label_may_be_a_number_but_no_truth_value():
    assert [label({"a": value}, "a", "row 1") for value in (19, 0.5, "x")] == ["19", "0.5", "x"]
    with pytest.raises(UserError, match='not a boolean; write it as text: "true"'):
        label({"a": True}, "a", "row 1")


def test_a_whole_number_among_floats_is_the_answer_without_its_fraction_as_it_is_the_class():
    found = [label({"a": value}, "a", "row 1") for value in (1.0, -3.0, 0.5, "1.0")]
    assert found == ["1", "-3", "0.5", "1.0"]
    assert [label_name(value) for value in (1.0, -3.0, 0.5, "1.0")] == found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None, [1]])
def test_null_nan_infinity_and_booleans_are_no_value_whatever_is_read(value: object):
    record = {"a": value}
    for read in (
        lambda: label(record, "a", "row 1"),
        lambda: number(record, "a", "row 1"),
        lambda: class_name(record, "a", "row 1", ("neg", "pos")),
    ):
        with pytest.raises(UserError, match=r"^row 1: 'a'"):
            read()


@pytest.mark.parametrize("value", ["pos", 1, 1.0, "1"])
def test_a_class_is_its_name_or_its_number_however_that_is_written(value: object):
    assert class_name({"a": value}, "a", "row 1", ("neg", "pos")) == "pos"


def test_a_class_that_a_number_names_is_meant_by_its_text_alone():
    choices = ("1", "2", "3")
    assert class_name({"a": "1"}, "a", "row 1", choices) == "1"
    with pytest.raises(UserError, match="numbers the class 2 and names another"):
        class_name({"a": 1}, "a", "row 1", choices)
    assert class_name({"a": 1}, "a", "row 1", ("0", "1")) == "1"


@pytest.mark.parametrize(
    ("value", "said"),
    [(2, "is 2, which"), ("2", 'is "2", which'), (0.5, "is 0.5, which"), (-1, "hidden label")],
)
def test_what_is_no_class_is_shown_as_it_is_written(value: object, said: str):
    with pytest.raises(UserError) as error:
        class_name({"a": value}, "a", "row 1", ("neg", "pos"))
    assert said in str(error.value)


def test_an_integer_beyond_floats_is_an_answer_but_no_target_or_class():
    assert label({"a": 10**400}, "a", "row 1") == str(10**400)
    for value in (10**400, str(10**400)):
        with pytest.raises(UserError, match=r"row 1: 'a' is \"?1000.* must be a finite number"):
            number({"a": value}, "a", "row 1")
    for value in (10**400, "1" * 5000, "--5"):
        with pytest.raises(UserError, match=r"row 1: 'a' is .* which is none of the choices"):
            class_name({"a": value}, "a", "row 1", ("neg", "pos"))


@pytest.mark.parametrize("value", ["nan", "inf", "often", "1" * 400])
def test_a_text_that_spells_no_finite_number_is_no_number(value: str):
    with pytest.raises(UserError, match="but must be a finite number"):
        number({"a": value}, "a", "row 1")
    assert number({"a": "0.25"}, "a", "row 1") == 0.25


def test_what_is_null_is_not_said_to_be_missing():
    assert lacks({"a": None, "b": 1}, "a") == "'a' is null"
    assert lacks({"b": 1}, "a") == "no 'a' (found: b)"
    assert lacks({}, "a") == "no 'a' (found: no keys)"


def test_a_long_value_is_shown_in_part():
    assert shown("é" * 80) == '"' + "é" * 59 + "..."


def test_types_are_called_by_their_json_names():
    values = [None, True, 1, 1.5, math.nan, "", {}, []]
    assert [kind(value).split()[-1] for value in values] == [
        "null", "boolean", "number", "number", "NaN", "text", "object", "list",
    ]  # fmt: skip
    assert kind(b"x") == "a value of the type bytes"


def test_the_name_that_a_file_gives_a_number_is_the_class():
    value = ClassNumber(1)
    value.name = "neg"
    assert class_name({"a": value}, "a", "row 1", ("neg", "pos")) == "neg"
    value.name = "unacceptable"  # the user's own words for the classes, by number
    assert class_name({"a": value}, "a", "row 1", ("neg", "pos")) == "pos"
