"""Questions of several turns are answered as a chat answers them, in FastChat's format."""

import json
from pathlib import Path

import pytest

from tests.run.test_generate import open_tiny
from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.run.generate import Answerer
from toplora_train.run.questions import answer_questions, read_questions

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Shorter."]},
    {"question_id": 82, "category": "math", "turns": ["What is 2 + 2?"], "reference": ["4"]},
    {"question_id": "x", "category": "math", "turns": ["3 + 1?", "And 4 + 1?", "Sure?"]},
]


def write(path: Path, questions) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in questions))
    return str(path)


def lines(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_turn_sees_the_answers_before_it_and_a_job_is_resumed(tmp_path, monkeypatch):
    answerer, output = open_tiny(tmp_path, chat=True), tmp_path / "vicuna.jsonl"
    questions = read_questions(write(tmp_path / "question.jsonl", QUESTIONS), None)
    said = answer_questions(answerer, questions, output, base=True)
    assert said.startswith(f"12 answers to 3 questions written to {output} and ")
    for name, base in (("vicuna", False), ("vicuna-base", True)):
        found = lines(tmp_path / f"{name}.jsonl")
        assert [one["question_id"] for one in found] == [81, 82, "x"]
        assert {one["model_id"] for one in found} == {name}
        assert len({one["answer_id"] for one in found}) == 3
        for one, question in zip(found, QUESTIONS, strict=True):
            before = []
            [choice] = one["choices"]
            for text, turn in zip(question["turns"], choice["turns"], strict=True):
                [expected] = answerer.answers([answerer.question(text, before)], base=base)
                assert turn == expected.text
                before += [Message("user", text), Message("assistant", turn)]
            assert choice["index"] == 0 and one["tstamp"] > 1.7e9

    answers, calls = Answerer.answers, []

    def interrupted(self, prompts, **how):
        calls.append(len(prompts))
        yield from answers(self, prompts, **how)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Answerer, "answers", interrupted)
    again = tmp_path / "again.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_questions(answerer, questions, again, base=False)
    answer_questions(answerer, questions, again, base=False)
    assert calls == [3, 2, 1]
    assert [one["choices"] for one in lines(again)] == [one["choices"] for one in lines(output)]


def test_other_rows_are_no_questions_and_bad_questions_are_named(tmp_path):
    rows = write(tmp_path / "a.jsonl", [{"prompt": "x"}])
    assert read_questions(rows, None) is None
    assert read_questions("bundled:arithmetic/test.jsonl", None) is None
    good = write(tmp_path / "b.jsonl", QUESTIONS)
    assert len(read_questions(good, 2)) == 2
    for bad, said in [
        ({"turns": ["x"]}, r"line 4: no 'question_id'"),
        ({"question_id": 1, "turns": "x"}, r"line 4: 'turns' must be .*list"),
        ({"question_id": 1, "turns": []}, r"line 4: 'turns' is empty"),
        ({"question_id": 1, "turns": ["x", " "]}, r"line 4: 'turns' is empty, or one"),
        ({"question_id": 81, "turns": ["x"]}, r"line 4: question_id 81 is also that of .* line 1"),
    ]:
        with pytest.raises(UserError, match=said):
            read_questions(write(tmp_path / "c.jsonl", [*QUESTIONS, bad]), None)


def test_several_turns_need_a_run_on_conversations_and_a_file_is_not_overwritten(tmp_path):
    questions = read_questions(write(tmp_path / "q.jsonl", QUESTIONS), None)
    with pytest.raises(UserError, match="need a run on conversations"):
        answer_questions(open_tiny(tmp_path), questions, tmp_path / "m.jsonl", base=False)
    answer_questions(open_tiny(tmp_path), questions[1:2], tmp_path / "m.jsonl", base=False)
    assert len(lines(tmp_path / "m.jsonl")) == 1
    (tmp_path / "n-base.jsonl").touch()
    with pytest.raises(UserError, match=r"n-base\.jsonl already exists"):
        answer_questions(open_tiny(tmp_path, chat=True), questions, tmp_path / "n.jsonl", base=True)
