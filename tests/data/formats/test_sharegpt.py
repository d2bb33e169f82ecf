"""ShareGPT's turns become messages; nothing in a turn is dropped."""

import json

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.formats.sharegpt import parse
from toplora_train.data.rows import parse_row

HOW = {"place": "a.json, row 3", "default_id": "a-3"}
ASK = {"from": "human", "value": "2 + 2?"}
TELL = {"from": "gpt", "value": "4"}


def test_a_dump_is_the_conversation_that_messages_would_be():
    turns = [{"from": "system", "value": "Be brief."}, ASK, TELL, ASK, TELL]
    roles = ("system", "user", "assistant", "user", "assistant")
    messages = [
        {"role": role, "content": turn["value"]} for role, turn in zip(roles, turns, strict=True)
    ]
    assert parse({"conversations": turns, "id": "x"}, **HOW) == parse_row(
        {"messages": messages, "id": "x"}, **HOW
    )
    beside = {"system": "Be brief.", "conversations": json.dumps(turns[1:])}  # text, in a CSV
    assert parse(beside, **HOW).messages == parse({"conversations": turns}, **HOW).messages


def test_a_tool_is_called_and_answers():
    turns = [
        ASK,
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
        {"from": "observation", "value": "4"},
        TELL,
    ]
    tools = '[{"name": "add", "parameters": {}}]'
    row = parse({"conversations": turns, "tools": tools}, **HOW)
    call = row.messages[1].for_template()["tool_calls"][0]["function"]
    assert call == {"name": "add", "arguments": {"a": 2, "b": 2}}
    assert [message.role for message in row.messages] == ["user", "assistant", "tool"]
    assert json.loads(row.tools)[0]["name"] == "add"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("hello", "no list of 'conversations'"),
        ([ASK, {"from": "alien", "value": "?"}], r"row 3: turn 2 is from 'alien', which is nobody"),
        ([ASK, {"from": "gpt"}], r"turn 2 needs 'from' and 'value' \(found: from\)"),
        ([ASK, TELL | {"mood": "glad"}], "message 2 has 'mood', which would be ignored"),
        ([TELL, ASK], None),
        ([ASK, {"from": "function_call", "value": "add(2, 2)"}], "must be JSON with name"),
    ],
)
def test_a_turn_that_cannot_be_read_is_named(turns, message):
    if message is None:  # a conversation that nobody answers can be evaluated
        assert parse({"conversations": turns}, **HOW).output == ""
        return
    with pytest.raises(UserError, match=message):
        parse({"conversations": turns}, **HOW)
