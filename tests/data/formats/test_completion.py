"""Prompt and completion are used verbatim, or as one conversation."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.encode import encode_rows
from toplora_train.data.formats.completion import parse
from toplora_train.data.prompts import row_prompt
from toplora_train.data.rows import Row
from toplora_train.models.tiny import tiny_tokenizer

HOW = {"place": "a.jsonl, line 3", "default_id": "a-3"}


def test_no_template_is_put_around_the_prompt_and_no_blank_is_removed():
    row = parse({"prompt": " The capital of France is", "completion": " Paris.\n"}, **HOW)
    assert (row_prompt(row), row.response) == (" The capital of France is", " Paris.\n")
    tokenizer = tiny_tokenizer()
    (example,) = encode_rows(tokenizer, [row], max_length=100, overflow="error").examples
    response = list(example.input_ids[example.prompt_length : -1])
    assert response == tokenizer(" Paris.\n", add_special_tokens=False)["input_ids"]


def test_two_lists_of_messages_are_one_conversation():
    ask, tell = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
    row = parse({"prompt": [ask], "completion": [tell]}, **HOW)
    assert (row.messages[0].content, row.output, row.form) == ("2 + 2?", "4", "")


def test_a_text_that_is_a_json_list_stays_a_text_unless_it_is_messages():
    row = parse({"prompt": "Names in: Ann met Bob.", "completion": '["Ann", "Bob"]'}, **HOW)
    assert (row.instruction, row.output) == ("Names in: Ann met Bob.", '["Ann", "Bob"]')
    row = parse({"prompt": "[1, 2] + [3]?", "completion": "[1, 2, 3]"}, **HOW)
    assert (row.instruction, row.output) == ("[1, 2] + [3]?", "[1, 2, 3]")
    ask, tell = '[{"role": "user", "content": "?"}]', '[{"role": "assistant", "content": "4"}]'
    row = parse({"prompt": ask, "completion": tell}, **HOW)
    assert (row.messages[0].content, row.output) == ("?", "4")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "?"}, r"line 3: no 'prompt' and 'completion' \(found: prompt\)"),
        ({"prompt": [], "completion": "x"}, "must both be text, or both messages"),
        ({"prompt": "?", "completion": 4}, "'output' must be text, not a number"),
    ],
)
def test_a_record_that_is_none_is_refused_by_its_place(record, message):
    with pytest.raises(UserError, match=message):
        parse(record, **HOW)


def test_a_row_keeps_its_id_and_its_answer():
    row = parse({"prompt": "?", "completion": "It is 4.", "answer": 4, "id": 7}, **HOW)
    assert row == Row("7", "?", "", "It is 4.", "4", prompt="{instruction}", form="completion")
