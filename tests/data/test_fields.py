import json

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.fields import kind, label, text


def test_a_text_is_kept_as_it_stands_and_an_absent_one_is_empty():
    assert text({"a": " é \n"}, "a", "row 1") == " é \n"
    assert text({}, "a", "row 1") == ""


@pytest.mark.parametrize("value", [7, True, None, ["x"], {"x": 1}])
def test_what_is_no_text_is_an_error_that_names_place_key_and_type(value: object):
    with pytest.raises(UserError) as error:
        text({"a": value}, "a", "row 1")
    assert str(error.value) == f"row 1: 'a' must be text, not {kind(value)}"


def test_half_a_character_is_an_error():
    with pytest.raises(UserError, match="row 1: 'a' holds half of"):
        text({"a": json.loads(r'"\ud83d"')}, "a", "row 1")


def test_a_label_may_be_a_number_but_no_truth_value():
    assert [label({"a": value}, "a", "row 1") for value in (19, 0.5, "x")] == ["19", "0.5", "x"]
    with pytest.raises(UserError, match="not a boolean"):
        label({"a": True}, "a", "row 1")


def test_types_are_called_by_their_json_names():
    values = [None, True, 1, 1.5, "", {}, []]
    assert [kind(value).split()[-1] for value in values] == [
        "null", "boolean", "number", "number", "text", "object", "list",
    ]  # fmt: skip
