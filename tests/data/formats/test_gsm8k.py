"""Rows of well-known sets become ours, and what is not of the set is refused by its place."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.formats.gsm8k import parse as parse_gsm8k
from toplora_train.data.rows import Row
from toplora_train.data.sources import read_rows
from toplora_train.evaluation.answers import is_correct
from toplora_train.evaluation.protocol import find_protocol

HOW = {"place": "a.jsonl, line 3", "default_id": "a-3"}


def gsm8k(answer, question="How many?"):
    return parse_gsm8k({"question": question, "answer": answer}, **HOW)


def test_a_solution_is_learned_as_text_and_its_number_is_the_answer():
    row = gsm8k("She has 12 + 7 = <<12+7=19>>19 pens.\nShe sells 4 < 19.\n#### 19")
    output = "She has 12 + 7 = 19 pens.\nShe sells 4 < 19.\nThe answer is 19."
    assert row == Row("a-3", "How many?", "", output, "19")


@pytest.mark.parametrize(
    ("last", "answer"), [("1,080", "1080"), ("-3", "-3"), ("0.5", "0.5"), (" 7 ", "7")]
)
def test_a_number_is_read_without_its_thousands_commas(last, answer):
    row = gsm8k(f"So it is.\n####{last}")
    assert (row.answer, row.output) == (answer, f"So it is.\nThe answer is {answer}.")


@pytest.mark.parametrize("answer", ["It is 19.", "It is 19.\n#### nineteen", "#### 19", ""])
def test_an_answer_without_solution_or_number_is_refused_by_its_place(answer):
    with pytest.raises(UserError, match=r"line 3: 'answer' does not end in '#### NUMBER'"):
        gsm8k(answer)


@pytest.mark.parametrize("record", [{"instruction": "?", "output": "!"}, ["?"]])
def test_a_record_of_another_kind_is_refused_and_the_key_is_named(record):
    with pytest.raises(UserError, match=r"no 'question' and 'answer' .* dataset\.format=gsm8k"):
        parse_gsm8k(record, **HOW)


def test_every_real_row_ends_in_an_answer_that_the_evaluation_finds(shared_dir):
    rows = read_rows(
        "openai/gsm8k", data_root=shared_dir / "data", subset="main", parse=parse_gsm8k
    ).rows
    extract = find_protocol("clean").extract
    assert len(rows) == 7473
    for row in rows:
        assert is_correct(extract(row.output, "number", ()), row.answer, "number"), row
        assert "<<" not in row.output and "####" not in row.output


def test_it_is_what_the_local_sample_holds_but_for_the_number_in_the_last_line(shared_dir):
    ours = read_rows(
        "openai/gsm8k", data_root=shared_dir / "data", subset="main", parse=parse_gsm8k
    ).rows
    sample = read_rows(
        "llm-adapters:ft-training_set/gsm8k_train_7k.json", data_root=shared_dir / "data"
    ).rows
    for row, other in zip(ours, sample, strict=True):
        assert row.instruction == other.instruction
        assert row.output.rpartition("\n")[0] == other.output.rpartition("\n")[0]
        assert is_correct(row.answer, other.answer, "number")
