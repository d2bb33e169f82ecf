import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.renamed import parse_renamed
from toplora_train.data.rows import Row

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
