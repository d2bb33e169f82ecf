"""Answers survive an interruption, and are never mixed with other ones."""

from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.run.assemble.answer_file import Answer, AnswerFile

FIRST, SECOND = Answer("tuned", 1, "ä\nb", True), Answer("tuned", 0, "", False)


def test_an_interrupted_file_is_continued_without_its_truncated_line(tmp_path: Path):
    path = tmp_path / "new" / "answers.jsonl"
    with AnswerFile(path, belongs_to="x") as file:
        file.add(FIRST)
        file.add(SECOND)
    partial = path.with_name("answers.jsonl.partial")
    partial.write_text(partial.read_text()[:-3])
    with AnswerFile(path, belongs_to="x") as file:
        assert file.kept == [FIRST]
        file.finish([{"id": "a"}, {"id": "ä"}])
    assert path.read_text() == '{"id": "a"}\n{"id": "ä"}\n'
    assert not partial.exists()


def test_answers_to_other_prompts_are_kept(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, belongs_to="x") as file:
        file.add(FIRST)
    with pytest.raises(UserError, match="has answers to other prompts"):
        AnswerFile(path, belongs_to="y")
    with AnswerFile(path, belongs_to="x") as file:
        assert file.kept == [FIRST]


def test_a_finished_file_is_not_overwritten(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    path.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        AnswerFile(path, belongs_to="x")
    assert path.read_text() == "mine"
