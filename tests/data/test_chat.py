"""Conversations: prompts and training text follow the chat template."""

from dataclasses import replace

import pytest
from tokenizers import processors

from toplora_train.config.errors import UserError
from toplora_train.data.chat import (
    as_conversations,
    chat_prompt,
    encode_chat_rows,
    prove_chat_prefix,
    question_ids,
    question_text,
)
from toplora_train.data.conversation import Message
from toplora_train.data.encode import CHUNK, Example, encode_prompt
from toplora_train.data.overflow import Encoded
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row, RowSet, content_hash
from toplora_train.models.tiny import tiny_tokenizer

EACH = "{% for m in messages %}"
CHATML = (
    EACH + "<|{{ m.role }}|>\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BRACKETS = (  # BOS, no generation prompt, EOS without a newline
    "<pad>" + EACH + "{% if m.role == 'assistant' %} {{ m.content | trim }}<eos>"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
TURNS = CHATML.replace("<eos>", "<end_of_turn>")  # the end of a turn is not EOS
BARE = (
    EACH
    + "{{ m.role }}: {{ m.content }}\n{% endfor %}"
    + ("{% if add_generation_prompt %}assistant: {% endif %}")
)
LEARNED = {CHATML: "Me.<eos>", BRACKETS: " Me.<eos>", TURNS: "Me.<end_of_turn><eos>"}
LEARNED[BARE] = "Me.<eos>"

BEFORE = (
    Message("user", "Who?"),
    Message("assistant", "I."),
    Message("user", "You, <b>é</b>?"),
)
ROW = Row("a", "Who?\nYou, <b>é</b>?", "", "Me.", "", BEFORE)


def chat_tokenizer(template: str | None = CHATML):
    """The byte tokenizer with a template; it prepends ``<pad>`` as its BOS."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 0)]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    tokenizer.chat_template = template
    return tokenizer


def encode(tokenizer, *rows: Row, max_length: int = 500, overflow: str = "error"):
    return encode_chat_rows(tokenizer, rows, max_length=max_length, overflow=overflow)


@pytest.fixture(params=list(LEARNED), ids=["chatml", "brackets", "turns", "bare"])
def template(request) -> str:
    return request.param


def test_only_the_last_answer_and_its_end_of_turn_are_supervised(template: str):
    tokenizer = chat_tokenizer(template)
    (example,) = encode(tokenizer, ROW).examples
    prompt, learned = (
        tokenizer.decode(ids)
        for ids in (
            example.input_ids[: example.prompt_length],
            example.input_ids[example.prompt_length :],
        )
    )
    assert learned == LEARNED[template]
    assert prompt == chat_prompt(tokenizer, ROW)
    assert "I." in prompt and "Me." not in prompt
    assert example.input_ids[-1] == tokenizer.eos_token_id


def test_training_and_evaluation_prompts_have_the_same_ids(template: str):
    tokenizer = chat_tokenizer(template)
    encoded = encode(tokenizer, ROW)
    (example,) = encoded.examples
    asked = question_ids(tokenizer, ROW, question_text(tokenizer, ROW, build_prompt))
    assert list(example.input_ids[: example.prompt_length]) == asked
    assert asked.count(0) == template.count("<pad>")  # BOS comes only from the template
    prove_chat_prefix(tokenizer, [ROW], encoded)


def test_other_rows_use_the_ordinary_prompt():
    tokenizer, row = chat_tokenizer(), Row("a", "Who?", "", "", "")
    text = question_text(tokenizer, row, build_prompt)
    assert text == build_prompt("Who?")
    assert question_ids(tokenizer, row, text) == encode_prompt(tokenizer, text)


def test_tokens_are_not_merged_across_prompt_and_answer():
    tokenizer = tiny_tokenizer()
    model = tokenizer.backend_tokenizer.model
    vocabulary = {**tokenizer.get_vocab(), "ĊM": 258}  # a newline and M, as byte tokenizers write
    tokenizer.backend_tokenizer.model = type(model)(vocab=vocabulary, merges=[("Ċ", "M")])
    tokenizer.chat_template = CHATML
    encoded = encode(tokenizer, ROW)
    assert tokenizer("\nMe")["input_ids"][0] == 258
    assert 258 not in encoded.examples[0].input_ids
    prove_chat_prefix(tokenizer, [ROW], encoded)


def test_batched_and_single_encoding_agree():
    tokenizer = chat_tokenizer()
    rows = [
        Row(str(i), "", "", f"It is {i}.", "", BEFORE[: 1 + 2 * (i % 2)]) for i in range(CHUNK + 2)
    ]
    seen: list[int] = []
    encoded = encode_chat_rows(
        tokenizer, rows, max_length=500, overflow="error", on_rows=seen.append
    )
    assert seen == [CHUNK, 2]
    for index in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1):
        assert encoded.examples[index] == encode(tokenizer, rows[index]).examples[0]


def test_overflow_applies_to_conversations():
    tokenizer = chat_tokenizer()
    (whole,) = encode(tokenizer, ROW).examples
    length = len(whole.input_ids)
    with pytest.raises(UserError, match="row 'a' with"):
        encode(tokenizer, ROW, max_length=length - 1)
    cut = encode(tokenizer, ROW, max_length=length - 1, overflow="truncate")
    assert cut.truncated_rows == 1
    assert cut.examples[0].input_ids == whole.input_ids[:-1]
    with pytest.raises(UserError, match="row 'a': its prompt alone has"):
        encode(tokenizer, ROW, max_length=whole.prompt_length, overflow="truncate")


@pytest.mark.parametrize(
    "example",
    [
        lambda one: Example((0, *one.input_ids), one.prompt_length + 1),
        lambda one: Example(one.input_ids, one.prompt_length - 1),
        lambda one: Example(one.input_ids, one.prompt_length + 1),
    ],
)
def test_a_prompt_mismatch_fails_the_check(example):
    tokenizer = chat_tokenizer()
    (whole,) = encode(tokenizer, ROW).examples
    with pytest.raises(UserError, match="row 'a': its training tokens do not start with"):
        prove_chat_prefix(tokenizer, [ROW], Encoded((example(whole),), (0,)))


def test_a_conversation_without_an_answer_cannot_be_trained_on():
    with pytest.raises(UserError, match="row 'b' does not end with an assistant message"):
        encode(chat_tokenizer(), ROW, Row("b", "Who?", "", "", "", BEFORE))


def test_a_tokenizer_without_a_template_is_an_error():
    with pytest.raises(UserError, match=r"row 'a' is a conversation, but .* has no chat template"):
        encode(chat_tokenizer(None), ROW)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no talk') }}", r"rejects the conversation \(no talk\)"),
        (
            CHATML.replace("<|{{", "<|{{ messages | length }}{{"),
            "changes the prompt",
        ),
        (CHATML.replace("{{ m.content }}", "{{ m.content[:2] }}"), "drops or rewrites part"),
        (
            CHATML.replace("<|assistant|>\n{", "<|assistant|>\n<think>{"),
            r"\(prompt '<think>', ",
        ),
    ],
)
def test_an_unsuitable_template_is_an_error_that_names_the_row(template: str, message: str):
    with pytest.raises(UserError, match=r"^row 'a': the model's chat template .*" + message):
        encode(chat_tokenizer(template), ROW)


def test_a_tokenizer_without_eos_is_an_error():
    tokenizer = chat_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        encode(tokenizer, ROW)


def test_questions_become_user_messages_and_conversations_are_unchanged():
    plain = Row("q", "Add.", "1 and 2", "3", "3")
    rows = (ROW, plain, Row("r", "Go.", " ", "", ""))
    told = as_conversations(RowSet(rows, "here", content_hash(rows)))
    assert told.rows[0] == ROW
    assert [row.messages for row in told.rows[1:]] == [
        (Message("user", "Add.\n\n1 and 2"),),
        (Message("user", "Go."),),
    ]
    assert (told.rows[1].answer, told.source) == ("3", "here")
    assert told.sha256 == content_hash(told.rows) != content_hash(rows)


def learned(tokenizer, row, learn="last"):
    (example,) = encode_chat_rows(
        tokenizer, [row], max_length=500, overflow="error", learn=learn
    ).examples
    ids = [id for id, one in zip(example.input_ids, example.learned, strict=True) if one]
    assert example.supervised == len(ids)
    return tokenizer.decode(ids)


def test_every_message_of_the_assistant_is_learned_with_its_end_of_turn():
    for template, first in ((CHATML, "I.<eos>"), (TURNS, "I.<end_of_turn>")):
        tokenizer = chat_tokenizer(template)
        assert learned(tokenizer, ROW, "assistant") == first + LEARNED[template]
        assert learned(tokenizer, ROW) == LEARNED[template]


def test_a_messages_own_train_takes_precedence():
    tokenizer, (ask, first, again) = chat_tokenizer(), BEFORE
    left_out = replace(ROW, messages=(ask, replace(first, train=False), again))
    assert learned(tokenizer, left_out, "assistant") == "Me.<eos>"
    kept = replace(ROW, messages=(ask, replace(first, train=True), again))
    assert learned(tokenizer, kept) == "I.<eos>Me.<eos>"
    only_first = replace(kept, reply=Message("assistant", "", train=False))
    assert learned(tokenizer, only_first) == "I.<eos>"
    nothing = replace(only_first, messages=left_out.messages)
    with pytest.raises(UserError, match="no message is learned"):
        learned(tokenizer, nothing, "assistant")


def test_a_template_that_rewrites_earlier_turns_cannot_learn_them():
    forgets = CHATML.replace(
        "{{ m.content }}", "{{ '...' if m.role == 'assistant' and not loop.last else m.content }}"
    )
    with pytest.raises(UserError, match="writes message 2 differently once others follow"):
        learned(chat_tokenizer(forgets), ROW, "assistant")


TOOLS = '[{"type": "function", "function": {"name": "add", "parameters": {}}}]'
CALL = '[{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]'
TAKES_TOOLS = "{% if tools %}<tools>{{ tools | tojson }}</tools>\n{% endif %}" + CHATML.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}",
)


def test_tools_and_calls_are_written_by_the_template_and_a_call_is_learned():
    called = replace(ROW, output="", reply=Message("assistant", "", tool_calls=CALL), tools=TOOLS)
    tokenizer = chat_tokenizer(TAKES_TOOLS)
    assert learned(tokenizer, called) == '{"name": "add", "arguments": {"a": 2}}<eos>'
    assert '<tools>[{"type"' in chat_prompt(tokenizer, called)
    with pytest.raises(UserError, match="leaves out the tool 'add'"):
        chat_prompt(chat_tokenizer(), called)
    with pytest.raises(UserError, match="leaves out the tool 'add'"):
        learned(chat_tokenizer(), replace(called, tools=""))
