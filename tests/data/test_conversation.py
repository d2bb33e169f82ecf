import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message, parse_messages

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "I."}
TALK = [SYSTEM, ASK, ANSWER, {"role": "user", "content": "You?"}]


def test_the_last_message_is_the_answer_where_it_is_the_assistants():
    before = tuple(Message(**one) for one in TALK)
    assert parse_messages([*TALK, {"role": "assistant", "content": " Me. "}], "") == (
        before,
        " Me. ",
    )
    assert parse_messages(TALK, "") == (before, "")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Who?", "'messages' must be a list of role and content, not a text"),
        ([], "'messages' must be a list of role and content, not an empty one"),
        (["Who?"], "message 1 must be an object with role and content, not a text"),
        ([{"from": "human", "value": "Who?"}], "message 1: no 'role' (found: from, value)"),
        ([ASK, ANSWER | {"content": None}], "message 2: 'content' is null; a message needs role"),
        ([{"role": "user", "content": ["Who?"]}], "message 1: 'content' must be text, not a list"),
        ([{"role": "human", "content": "Who?"}, ANSWER], "message 1 has the role 'human'; known: "),
        ([ASK, {"role": "assistant", "content": " \n"}], "message 2 (assistant) is empty"),
        ([ASK, ANSWER | {"tool_calls": [1]}], "message 2 has 'tool_calls', which would be left"),
        ([ASK, SYSTEM, ANSWER], "message 2 is the system's, which can only be the first"),
        ([ANSWER], "the answer must follow a user's message, not nothing"),
        ([SYSTEM, ANSWER], "the answer must follow a user's message, not the system's"),
        ([SYSTEM], "the answer must follow a user's message, not the system's"),
        ([ASK, ANSWER, ANSWER], "must follow a user's message, not another one of the assistant's"),
    ],
)
def test_what_is_no_conversation_is_one_line_that_names_row_and_message(messages, message: str):
    with pytest.raises(UserError) as error:
        parse_messages(messages, "a.jsonl, line 3")
    assert str(error.value).startswith("a.jsonl, line 3: ")
    assert message in str(error.value)
