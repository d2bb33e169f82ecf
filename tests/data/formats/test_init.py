"""A format is recognised by the record's keys, and a new module is a new format."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.formats import completion, find_format, gsm8k, sharegpt
from toplora_train.data.rows import parse_row


@pytest.mark.parametrize(
    ("keys", "parse"),
    [
        (("instruction", "output"), parse_row),
        (("messages",), parse_row),
        (("text", "url"), parse_row),
        (("conversations", "id"), sharegpt.parse),
        (("prompt", "completion"), completion.parse),
        (("question", "answer"), parse_row),
    ],
)
def test_the_keys_say_which_it_is(keys, parse):
    assert find_format(dict.fromkeys(keys, "x"), None, "a") is parse


def test_a_null_column_of_a_table_says_nothing():
    record = {"messages": None, "conversations": [], "prompt": None, "completion": "x"}
    assert find_format(record, None, "a") is sharegpt.parse


def test_keys_of_two_formats_are_refused():
    with pytest.raises(UserError, match="row 1: has 'instruction' and 'prompt \\+ completion'"):
        find_format({"instruction": "?", "prompt": "?", "completion": "!"}, None, "row 1")


def test_the_name_decides_where_it_is_given():
    assert find_format({"instruction": "?"}, "gsm8k", "a") is gsm8k.parse
