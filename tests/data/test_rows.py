"""One record of a file becomes a row, or an error that names its place."""

import hashlib
import json
from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.data.rows import Row, content_hash, parse_row


def parse(fields, **settings):
    return parse_row(fields, place="a.json, row 12", default_id="a-12", **settings)


def test_a_full_record_becomes_a_row():
    fields = {"id": "q7", "instruction": "Add.", "input": "1 2", "output": "3.", "answer": "3"}
    assert parse(fields) == Row("q7", "Add.", "1 2", "3.", "3")


def test_all_but_the_instruction_may_be_absent_or_null():
    assert parse({"instruction": "Add."}) == Row("a-12", "Add.", "", "", "")
    assert parse({"instruction": "Add.", "output": None}) == Row("a-12", "Add.", "", "", "")


def test_numbers_serve_as_answer_and_id():
    row = parse({"instruction": "Add.", "answer": 19, "id": 7})
    assert (row.answer, row.id) == ("19", "7")
    assert parse({"instruction": "Add.", "answer": 0.5}).answer == "0.5"
    assert parse({"instruction": "Add.", "answer": 0, "id": 0}).id == "0"


def test_the_text_is_kept_as_it_stands():
    assert parse({"instruction": " a \n"}).instruction == " a \n"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(["x"], "a list"), ({"x": 1}, "an object"), (7, "a number"), (True, "a boolean")],
)
def test_an_instruction_that_is_no_text_is_an_error_that_names_its_type(value, kind):
    with pytest.raises(UserError, match=f"^a.json, row 12: 'instruction' must be text, not {kind}"):
        parse({"instruction": value})


def test_a_boolean_answer_is_an_error_for_true_is_not_the_text_true():
    with pytest.raises(
        UserError,
        match="'answer' must be a text or a finite number, not a boolean; write it as text",
    ):
        parse({"instruction": "Is it?", "answer": True})


@pytest.mark.parametrize("record", [["Add."], "Add.", 7, None])
def test_a_record_that_is_no_object_is_an_error(record):
    with pytest.raises(UserError, match=r"^a\.json, row 12: a row is an object with 'instruction'"):
        parse(record)


def test_another_schema_is_an_error_that_lists_the_keys_found():
    with pytest.raises(UserError, match=r"no 'instruction' \(found: sentence, label, idx\)"):
        parse({"sentence": "Hm.", "label": 1, "idx": 0})


def test_an_instruction_of_white_space_is_an_error():
    with pytest.raises(UserError, match="'instruction' is empty"):
        parse({"instruction": " \n", "output": "x"})


@pytest.mark.parametrize(
    ("slip", "meant"), [("inputs", "input"), ("Output", "output"), ("anwser", "answer")]
)
def test_a_slip_in_a_key_is_an_error_that_offers_the_right_one(slip, meant):
    with pytest.raises(UserError, match=f"unknown key '{slip}'; did you mean '{meant}'"):
        parse({"instruction": "Add.", slip: "x"})


def test_other_columns_are_let_be():
    assert parse({"instruction": "Add.", "idx": 3, "source": "web", "answer_idx": 1}).input == ""


def test_an_instruction_that_is_null_is_not_said_to_be_found():
    with pytest.raises(UserError, match="'instruction' is null; rows need"):
        parse({"instruction": None, "output": "x"})


def test_a_row_knows_its_place_which_tells_no_rows_apart():
    row = parse({"instruction": "Add.", "output": "3."})
    assert row.where == "a.json, row 12"
    assert replace(row, place="") == row
    assert replace(row, place="").where == f"row '{row.id}'"


def test_a_row_to_be_scored_needs_an_answer():
    with pytest.raises(UserError, match=r"^a\.json, row 12: no 'answer' to score against"):
        parse({"instruction": "Add.", "output": "3."}, needs_answer=True)


def test_half_a_surrogate_pair_is_an_error_here_and_not_in_the_tokenizer():
    with pytest.raises(UserError, match="row 12: 'output' contains half of"):
        parse({"instruction": "Add.", "output": json.loads(r'"\ud83d"')})


def test_the_hash_is_that_of_the_canonical_json_lines():
    rows = [Row("1", "é", "", "b", "c"), Row("2", "x", "y", "z", "")]
    lines = (
        r'{"answer":"c","input":"","instruction":"\u00e9","output":"b"}' + "\n"
        r'{"answer":"","input":"y","instruction":"x","output":"z"}' + "\n"
    )
    assert content_hash(rows) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_hash_follows_content_and_order_but_not_ids():
    first, second = Row("1", "a", "", "b", ""), Row("2", "c", "", "d", "")
    assert content_hash([first]) == content_hash([Row("other", "a", "", "b", "")])
    assert content_hash([first, second]) != content_hash([second, first])
    assert content_hash([first]) != content_hash([Row("1", "a", "b", "", "")])


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "I."},
    {"role": "user", "content": "You?"},
    {"role": "assistant", "content": "Me."},
]


def test_a_conversation_is_a_row_whose_output_is_the_last_answer():
    row = parse({"messages": TALK, "id": 3, "answer": "me"})
    assert (row.id, row.output, row.answer, row.input) == ("3", "Me.", "me", "")
    assert row.instruction == "Who?\nYou?"
    assert row.messages == tuple(Message(**message) for message in TALK[:-1])


@pytest.mark.parametrize("other", ["instruction", "input", "output"])
def test_a_row_of_both_kinds_is_no_guess(other: str):
    with pytest.raises(UserError, match=f"row 12: has 'messages' and '{other}', so"):
        parse({"messages": TALK, other: "x"})


def test_a_conversation_to_be_scored_needs_an_answer():
    with pytest.raises(UserError, match="row 12: no 'answer' to score against"):
        parse({"messages": TALK[:-1]}, needs_answer=True)
    with pytest.raises(UserError, match="unknown key 'answers'; did you mean 'answer'"):
        parse({"messages": TALK[:-1], "answers": "me"})


def test_the_hash_of_a_conversation_is_of_every_message():
    other = [{"role": "system", "content": "Be long."}, *TALK[1:]]
    hashes = {content_hash([parse({"messages": talk})]) for talk in (TALK, other, TALK[1:])}
    assert len(hashes) == 3


def test_text_alone_is_a_row_of_plain_text():
    row = parse({"text": "Once.", "url": "x"})
    assert row == Row("a-12", "", "", "Once.", "", form="text")
    with pytest.raises(UserError, match="'text' is empty"):
        parse({"text": " \n"})


def test_what_changes_the_tokens_changes_the_digest():
    ask = {"role": "user", "content": "?"}
    tell = {"role": "assistant", "content": "!"}
    records = [
        {"messages": [ask, tell]},
        {"messages": [ask, tell | {"train": True}]},
        {"messages": [ask, tell], "tools": [{"name": "add"}]},
        {"messages": [ask, tell | {"tool_calls": [{"name": "add"}]}]},
        {"messages": [ask, tell, ask, tell]},
        {"messages": [ask, tell | {"train": False}, ask, tell]},
    ]
    digests = {content_hash([parse(record)]) for record in records}
    assert len(digests) == len(records)
