import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message, parse_messages, parse_tools

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "I."}
TALK = [SYSTEM, ASK, ANSWER, {"role": "user", "content": "You?"}]


def test_a_last_assistant_message_is_the_answer():
    before = tuple(Message(**one) for one in TALK)
    assert parse_messages([*TALK, {"role": "assistant", "content": " Me. "}], "") == (
        before,
        Message("assistant", " Me. "),
    )
    assert parse_messages(TALK, "") == (before, None)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Who?", "'messages' must be a list of objects with role and content, not a text"),
        ([], "'messages' must be a list of objects with role and content, not an empty list"),
        (["Who?"], "message 1 must be an object with role and content, not a text"),
        (
            [{"from": "human", "value": "Who?"}],
            "message 1 has 'from' and 'value', as ShareGPT's conversations have",
        ),
        ([ASK, ANSWER | {"content": None}], "message 2: 'content' is null; a message needs role"),
        (
            [{"role": "user", "content": ["Who?"]}],
            "message 1: its content has parts",
        ),
        ([{"role": "human", "content": "Who?"}, ANSWER], "message 1 has the unknown role 'human'"),
        ([ASK, {"role": "assistant", "content": " \n"}], "message 2 (assistant) is empty"),
        (
            [ASK, ANSWER | {"tool_calls": [1]}],
            "message 2 (assistant): 'tool_calls' must be",
        ),
        ([ASK, ANSWER | {"thinking": "x"}], "message 2 has 'thinking', which would be ignored"),
        ([ASK | {"train": True}, ANSWER], "message 1 (user) has 'train', but only an assistant's"),
        ([ASK, ANSWER | {"weight": 0.5}], "message 2: give one of 'train'"),
        ([ASK, ANSWER | {"train": True, "weight": 1}], "message 2: give one of 'train'"),
        ([ASK, SYSTEM, ANSWER], "message 2 is a system message, which must come first"),
        ([ANSWER], "the answer must follow a user message, not nothing"),
        ([SYSTEM, ANSWER], "the answer must follow a user message, not a system message"),
        ([SYSTEM], "the answer must follow a user message, not a system message"),
        ([ASK, ANSWER, ANSWER], "must follow a user message, not another assistant message"),
    ],
)
def test_an_invalid_conversation_is_an_error_that_names_row_and_message(messages, message: str):
    with pytest.raises(UserError) as error:
        parse_messages(messages, "a.jsonl, line 3")
    assert str(error.value).startswith("a.jsonl, line 3: ")
    assert message in str(error.value)


def test_text_in_parts_and_a_weight_are_read_as_openai_writes_them():
    parts = [{"type": "text", "text": "I"}, {"type": "text", "text": "."}]
    (_, answer) = parse_messages([ASK, {"role": "assistant", "content": parts, "weight": 0}], "")
    assert answer == Message("assistant", "I.", train=False)


def test_tools_need_names():
    assert parse_tools('[{"type": "function", "function": {"name": "add"}}]', "a")
    with pytest.raises(UserError, match="a: 'tools' must be a list of functions with a name"):
        parse_tools([{"function": {}}], "a")
