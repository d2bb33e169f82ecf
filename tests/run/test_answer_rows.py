"""All rows of a file are answered, once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.test_generate import open_tiny
from toplora_train.config.decoding import Decoding
from toplora_train.config.errors import UserError
from toplora_train.run.answer_rows import Answer, AnswerFile, answer_rows
from toplora_train.run.generate import Answerer

ROWS = "bundled:arithmetic/test.jsonl"


def test_an_interrupted_job_ends_with_the_answers_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answerer, whole = open_tiny(tmp_path), tmp_path / "whole.jsonl"
    said = answer_rows(answerer, ROWS, whole, base=True, limit=3)
    assert said == f"6 answers written to {whole}; 6 cut off at max_new_tokens=4"
    lines = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["test-1", "test-2", "test-3"]
    assert any(line["output"] != line["base_output"] for line in lines)

    answers, again = Answerer.answers, tmp_path / "again.jsonl"
    calls: list[int] = []

    def interrupted(self, prompts, **how):
        calls.append(len(prompts))
        for count, one in enumerate(answers(self, prompts, **how)):
            if len(calls) == 2 and count == 1:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(Answerer, "answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer_rows(answerer, ROWS, again, base=True, limit=3)
    assert not again.exists()
    assert "4 of them from the interrupted job" in answer_rows(
        answerer, ROWS, again, base=True, limit=3
    )
    assert calls == [3, 3, 2]
    assert again.read_bytes() == whole.read_bytes()


def test_a_resumed_job_that_samples_does_not_repeat_its_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows.write_text('{"instruction": "Say anything."}\n' * 4)
    hot = Decoding(8, 1, temperature=50.0)
    answers = Answerer.answers

    def interrupted(self, prompts, **how):
        for count, one in enumerate(answers(self, prompts, **how)):
            if count == 2:
                raise KeyboardInterrupt
            yield one

    answerer = replace(open_tiny(tmp_path), decoding=hot)
    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer_rows(answerer, str(rows), output, base=False, limit=None)
    answer_rows(answerer, str(rows), output, base=False, limit=None)
    found = [json.loads(line)["output"] for line in output.read_text().splitlines()]
    assert len(set(found)) == 4


def test_sampled_answers_do_not_depend_on_who_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answerer = replace(open_tiny(tmp_path), decoding=Decoding(8, 1, temperature=50.0))

    def tuned(name: str, *, base: bool) -> list[str]:
        answer_rows(answerer, ROWS, tmp_path / name, base=base, limit=2)
        return [json.loads(line)["output"] for line in (tmp_path / name).read_text().splitlines()]

    alone = tuned("alone.jsonl", base=False)
    assert tuned("both.jsonl", base=True) == alone

    answers = Answerer.answers

    def interrupted(self, prompts, *, base, **how):
        if not base:
            raise KeyboardInterrupt
        yield from answers(self, prompts, base=base, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned("resumed.jsonl", base=True)
    assert tuned("resumed.jsonl", base=True) == alone


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
