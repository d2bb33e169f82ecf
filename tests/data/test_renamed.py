from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.prompts import row_prompt
from toplora_train.data.renamed import parse_renamed
from toplora_train.data.rows import Row, content_hash

HOW = {"place": "a.jsonl, line 3", "default_id": "a-3"}


def test_a_row_is_read_under_its_own_names():
    record = {"question": "2 + 2?", "response": "It is 4.", "gold": 4, "topic": "sums"}
    names = {"instruction": "question", "output": "response", "answer": "gold"}
    assert parse_renamed(record, names=names, **HOW) == Row("a-3", "2 + 2?", "", "It is 4.", "4")


def test_a_key_may_take_the_name_of_another():
    record = {"input": "2 + 2?", "output": "4"}
    row = parse_renamed(record, names={"instruction": "input", "answer": "output"}, **HOW)
    assert row == Row("a-3", "2 + 2?", "", "", "4")


def test_what_keeps_its_name_need_not_be_named():
    record = {"question": "2 + 2?", "output": "4", "id": "x"}
    row = parse_renamed(record, names={"instruction": "question"}, **HOW)
    assert row == Row("x", "2 + 2?", "", "4", "")


def test_a_name_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(UserError, match=r"line 3: no 'qestion' \(found: question, output\), which"):
        parse_renamed({"question": "?", "output": "!"}, names={"instruction": "qestion"}, **HOW)


def test_what_is_no_object_is_refused_as_ever():
    with pytest.raises(UserError, match="a row is an object"):
        parse_renamed(["?"], names={"instruction": "question"}, **HOW)


def test_needing_an_answer_is_passed_on():
    with pytest.raises(UserError, match="no 'answer' to score against"):
        parse_renamed({"q": "?"}, names={"instruction": "q"}, needs_answer=True, **HOW)


def test_a_question_under_an_unknown_name_comes_with_a_remedy_to_paste():
    record = {"question": "?", "response": "!"}
    remedy = (
        r"line 3: no 'instruction' \(found: question, response\).*"
        r"try task\.t\.fields='\{instruction: question, answer: response\}'$"
    )
    with pytest.raises(UserError, match=remedy):
        parse_renamed(record, names={}, key="task.t", needs_answer=True, **HOW)


def parse_training(record, **more):
    return parse_renamed(record, names={}, needs_output=True, **HOW, **more)


@pytest.mark.parametrize(
    ("record", "remedy"),
    [
        (
            {"instruction": "?", "context": "", "response": "!", "category": "x"},
            r"line 3: no 'output' to train on \(found: instruction, context, response, category\); "
            r"try dataset\.fields='\{output: response, input: context\}'$",
        ),
        ({"instruction": "?", "answer": "!"}, r"fields='\{output: answer\}'$"),
        (
            {"question": "?", "answer": "!", "context": "c"},
            r"need an instruction and an output, or messages: "
            r"try .*'\{instruction: question, output: answer, input: context\}'$",
        ),
    ],
)
def test_a_training_row_without_an_output_comes_with_its_likely_column(record, remedy):
    with pytest.raises(UserError, match=remedy):
        parse_training(record)


def test_no_output_is_wanted_of_test_rows_plain_text_and_rows_that_have_one():
    assert parse_renamed({"instruction": "?", "answer": "!"}, names={}, **HOW).answer == "!"
    assert parse_training({"text": "x", "response": "y"}).output == "x"
    assert parse_training({"instruction": "?", "output": "!", "response": "y"}).output == "!"


def test_a_prompt_is_the_template_over_the_rows_columns():
    record = {"q": "2 + {x}?", "hint": " {a} ", "n": 4}
    row = parse_renamed(
        record,
        names={"instruction": "q", "answer": "n"},
        prompt="{hint}Q: {q} ({instruction}) {{}}\nA:",
        **HOW,
    )
    assert row_prompt(row) == " {a} Q: 2 + {x}? (2 + {x}?) {}\nA:"
    asked_otherwise = replace(row, instruction="1?")  # such as a cloze
    assert row_prompt(asked_otherwise) == " {a} Q: 1? (1?) {}\nA:"
    assert content_hash([row]) != content_hash([replace(row, prompt="{instruction}")])


def test_a_column_that_only_the_prompt_names_is_no_slip_of_another():
    record = {"instruction": "?", "inputs": "x"}
    assert parse_renamed(record, names={}, prompt="{inputs}{instruction}", **HOW).prompt
    with pytest.raises(UserError, match="unknown key 'inputs'"):
        parse_renamed(record, names={}, prompt="{instruction}", **HOW)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"instruction": "?", "hint": "x"}, r"no 'hints' .*task\.t\.prompt names; did you mean {h"),
        ({"instruction": "?", "hints": None}, r"line 3: 'hints' is null, which task\.t\.prompt"),
        ({"instruction": "?", "hints": ["x"]}, r"'hints' must be a text or a finite number, not a"),
        ({"messages": [{"role": "user", "content": "?"}], "hints": ""}, r"leave task\.t\.prompt"),
    ],
)
def test_a_row_that_the_template_cannot_be_filled_from_is_named(record, message: str):
    with pytest.raises(UserError, match=message):
        parse_renamed(record, names={}, key="task.t", prompt="{hints} {instruction}", **HOW)


def test_a_prompt_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"dataset\.prompt gives it an empty prompt"):
        parse_renamed({"instruction": "?", "a": ""}, names={}, prompt="{a}", **HOW)


@pytest.mark.parametrize(
    ("record", "remedy"),
    [
        ({"text": "x", "label": 1}, r"dataset=table dataset\.text=text dataset\.label=label"),
        (
            {"premise": "x", "hypothesis": "y", "label": 1},
            r"dataset=table dataset\.text=\[premise,hypothesis\] dataset\.label=label",
        ),
        ({"dialog": [], "id": 1}, r"try dataset\.fields='\{messages: dialog\}'"),
    ],
)
def test_a_record_of_another_kind_is_refused_with_the_way_to_use_it(record, remedy):
    with pytest.raises(UserError, match=remedy):
        parse_renamed(record, names={}, **HOW)


def test_a_labelled_text_can_be_learned_as_text():
    row = parse_renamed({"text": "x", "label": 1}, names={"text": "text"}, **HOW)
    assert (row.form, row.output) == ("text", "x")


def test_formats_are_recognised_under_other_names():
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
    row = parse_renamed({"dialog": turns}, names={"conversations": "dialog"}, **HOW)
    assert row.output == "!"
    with pytest.raises(UserError, match=r"used as it is; leave dataset\.prompt out"):
        parse_renamed({"prompt": "?", "completion": "!"}, names={}, prompt="{instruction}", **HOW)
