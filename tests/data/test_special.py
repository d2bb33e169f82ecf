"""Special tokens in a row's own text are counted, and distinguished from the template's."""

import json
from dataclasses import replace

import pytest
from tokenizers import AddedToken

from toplora_train.config.errors import UserError
from toplora_train.data.chat import encode_chat_rows, prove_chat_prefix, question_ids
from toplora_train.data.conversation import Message
from toplora_train.data.encode import encode_prompt, encode_rows
from toplora_train.data.rows import Row
from toplora_train.data.special import (
    HIDDEN,
    encode_as_text,
    encodes_as_text,
    find_special,
    hide,
    reveal,
)
from toplora_train.models.tiny import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
EOS = 1


def tokenizer_with(template: str | None = CHATML, *, as_text: bool = True):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    if as_text:
        encode_as_text(tokenizer)
    return tokenizer


def talk(asked: str, answer: str) -> Row:
    return Row("a", asked, "", answer, "", (Message("user", asked),), place="a.jsonl, line 1")


def plain_ids(text: str) -> list[int]:
    """The ids by the byte tokenizer's rule: one per byte."""
    return tiny_tokenizer()(text, split_special_tokens=True)["input_ids"]


def test_special_tokens_in_the_text_are_counted_and_the_first_row_is_named():
    rows = [
        Row("a", "fine", "", "fine", ""),
        Row("b", "a <eos> b", "<pad>", "<eos>", "", place="a.jsonl, line 2"),
        talk("<eos>?", "no"),
    ]
    found = find_special(tiny_tokenizer(), rows)
    assert (found.rows, found.tokens) == (2, {"<eos>": 3, "<pad>": 1})
    assert found.first == "a.jsonl, line 2"


def test_outputs_of_test_rows_are_not_counted():
    found = find_special(tiny_tokenizer(), [Row("b", "hi", "", "<eos>", "")], outputs=False)
    assert (found.rows, found.tokens) == (0, {})


def test_a_special_token_in_a_plain_row_is_text_or_special_as_configured():
    row = Row("a", "Say <eos>", "", "<eos>", "")
    for as_text, ends in ((True, 1), (False, 3)):
        tokenizer = tokenizer_with(as_text=as_text)
        assert encodes_as_text(tokenizer) is as_text
        (example,) = encode_rows(tokenizer, [row], max_length=500, overflow="error").examples
        assert example.input_ids.count(EOS) == ends
        assert (EOS in encode_prompt(tokenizer, "Say <eos>.")) is not as_text


def test_in_a_conversation_only_the_templates_own_special_tokens_are_special():
    tokenizer = tokenizer_with()
    row = talk("end <eos> here", "It <eos> ends")
    encoded = encode_chat_rows(tokenizer, [row], max_length=500, overflow="error")
    prove_chat_prefix(tokenizer, [row], encoded)
    (example,) = encoded.examples
    asked = [
        *plain_ids("<|user|>\nend <eos> here"), EOS, *plain_ids("\n<|assistant|>\n"),
    ]  # fmt: skip
    assert list(example.input_ids) == [*asked, *plain_ids("It <eos> ends"), EOS]
    assert example.prompt_length == len(asked)
    assert question_ids(tokenizer, row, "") == asked


def test_a_conversation_without_special_tokens_is_encoded_as_usual():
    row = talk("Who?", "Me.")
    kept, as_text = (
        encode_chat_rows(tokenizer_with(as_text=one), [row], max_length=500, overflow="error")
        for one in (False, True)
    )
    assert kept == as_text


TOOLS = (
    "{% for t in tools or [] %}<|tool|>{{ t.function.name }}: {{ t.function.description }}\n"
    "{% endfor %}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% for c in m.tool_calls "
    "or [] %}{{ c.function.name }} {{ c.function.arguments.q }}{% endfor %}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_the_special_tokens_of_tools_and_their_calls_count_too():
    call = {"type": "function", "function": {"name": "find", "arguments": {"q": "a<eos>b"}}}
    tool = {"type": "function", "function": {"name": "find", "description": "pads <pad>"}}
    asked = Message("assistant", "", tool_calls=json.dumps([call]))
    row = replace(
        talk("Find it.", ""),
        messages=(Message("user", "Find it."), asked, Message("tool", "here")),
        output="Found.",
        tools=json.dumps([tool]),
    )
    reply = replace(row, messages=row.messages[:1], output="", reply=asked)
    tokenizer = tokenizer_with(TOOLS)
    assert find_special(tokenizer, [row]).tokens == {"<eos>": 1, "<pad>": 1}
    assert find_special(tokenizer, [reply]).tokens == {"<eos>": 1, "<pad>": 1}
    assert find_special(tokenizer, [reply], outputs=False).tokens == {"<pad>": 1}
    for one, ends in ((row, 4), (reply, 2)):
        encoded = encode_chat_rows(tokenizer, [one], max_length=500, overflow="error")
        prove_chat_prefix(tokenizer, [one], encoded)
        ids = list(encoded.examples[0].input_ids)
        assert ids.count(EOS) == ends
        assert tokenizer.pad_token_id not in ids
        assert tokenizer.decode(ids).count("<eos>") == ends + 1


def test_reveal_inverts_hide():
    tokenizer = tokenizer_with()
    row = talk("a<eos><pad>b", "<eos>")
    hidden = hide(tokenizer, row)
    assert "<eos>" not in hidden.messages[0].content + hidden.output
    assert reveal(tokenizer, hidden.messages[0].content) == "a<eos><pad>b"


def test_a_row_with_the_reserved_character_is_an_error_that_names_it():
    with pytest.raises(UserError, match=r"^a\.jsonl, line 1: contains the noncharacter U\+FDD0"):
        hide(tokenizer_with(), talk(f"a{HIDDEN}", "b"))


def test_a_template_that_depends_on_special_tokens_in_messages_is_refused():
    template = CHATML.replace("m.content", "m.content.split('<eos>')[-1]")
    with pytest.raises(UserError, match="template depends on the special tokens in a message"):
        question_ids(tokenizer_with(template), talk("a<eos>b", ""), "")


def test_a_tokenizer_that_encodes_parts_differently_is_refused():
    tokenizer = tokenizer_with(as_text=False)
    tokenizer.add_tokens([AddedToken("<eos>", special=True, rstrip=True)], special_tokens=True)
    encode_as_text(tokenizer)
    with pytest.raises(UserError, match="cannot be separated exactly"):
        question_ids(tokenizer, talk("a<eos>b", ""), "")


def test_a_tokenizer_that_cannot_encode_its_special_tokens_as_text_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["Q"]})  # also a byte's token
    with pytest.raises(UserError, match="cannot encode Q as text"):
        encode_as_text(tokenizer)
