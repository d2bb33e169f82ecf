import json
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import DatasetSettings, EvaluationSettings, TaskSettings
from toplora_train.data.prompts import row_prompt
from toplora_train.evaluation.methods.base import find_method, protocol_of
from toplora_train.run.prepare.eval_sets import (
    match_training_form,
    prompt_mismatch,
    read_eval_sets,
)

ARITHMETIC = TaskSettings(
    name="arithmetic", source="bundled:arithmetic/test.jsonl", extraction="number"
)


def read(tasks, dataset=None, **evaluation):
    return read_eval_sets(
        tasks,
        dataset or DatasetSettings(name="d"),
        EvaluationSettings(**evaluation),
        data_root=None,
    )


def test_a_task_has_its_rows_and_scoring():
    (found,) = read({"arithmetic": ARITHMETIC}, limit=5)
    assert len(found.rows.rows) == 5
    assert (found.name, found.extraction) == ("arithmetic", "number")


def test_the_users_test_rows_are_one_more_task(tmp_path: Path):
    rows = tmp_path / "b.jsonl"
    rows.write_text(json.dumps({"instruction": "1 + 1?", "output": "2"}) + "\n")
    dataset = DatasetSettings(name="jsonl", test=str(rows), test_max_new_tokens=9)
    found = read({"arithmetic": ARITHMETIC}, dataset)
    assert [eval_set.name for eval_set in found] == ["arithmetic", "test"]
    assert found[1].max_new_tokens == 9


def test_a_row_without_an_answer_among_rows_that_have_one_is_refused_by_its_line(tmp_path: Path):
    rows = tmp_path / "b.jsonl"
    dataset = DatasetSettings(name="jsonl", test=str(rows))
    whole = {"instruction": "1 + 1?", "output": "It is 2.", "answer": 2}
    rows.write_text("".join(json.dumps(row) + "\n" for row in (whole, whole | {"answer": None})))
    with pytest.raises(
        UserError, match=r"^\S+b\.jsonl, line 2: no 'answer' .*1 of 2 rows have one"
    ):
        read({}, dataset)


def test_an_answer_that_is_nan_is_refused_by_its_line(tmp_path: Path):
    rows = tmp_path / "b.jsonl"
    rows.write_text('{"instruction": "1 + 1?", "output": "2", "answer": NaN}\n')
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: 'answer' must be .*, not NaN"):
        read({}, DatasetSettings(name="jsonl", test=str(rows)))


def test_two_tasks_named_test_are_refused(tmp_path: Path):
    dataset = DatasetSettings(name="jsonl", test=str(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match="named 'test'"):
        read({"test": ARITHMETIC}, dataset)


def test_no_tasks_is_no_test_set():
    assert read({}) == []


def identity(found):
    return find_method(found.kind).identity(found)


def options(tmp_path: Path, **changes) -> dict[str, TaskSettings]:
    rows = tmp_path / "choices.jsonl"
    question = "Is water wet?\n\nAnswer format: true/false"
    rows.write_text(json.dumps({"instruction": question, "answer": "true"}) + "\n")
    settings = {
        "extraction": "choice",
        "choices": ["true", "false"],
        "response": "the correct answer is {answer}",
    }
    return {"wet": TaskSettings(name="wet", source=str(rows), **settings | changes)}


def test_multiple_choice_applies_to_tasks_with_choices_only(tmp_path: Path):
    tasks = {"arithmetic": ARITHMETIC, **options(tmp_path)}
    found = {eval_set.name: eval_set.kind for eval_set in read(tasks, multiple_choice="choose")}
    assert found == {"arithmetic": "generate", "wet": "choose"}
    tasks = options(tmp_path, kind="choose")
    assert [eval_set.kind for eval_set in read(tasks)] == ["choose"]
    assert [eval_set.kind for eval_set in read(tasks, multiple_choice="generate")] == ["generate"]


@pytest.mark.parametrize(
    "changes",
    [{"response": None}, {"response": "it is so"}, {"choices": [], "extraction": "exact"}],
)
def test_kind_choose_needs_choices_and_a_response(tmp_path: Path, changes):
    with pytest.raises(UserError, match=r"task\.wet: kind choose needs choices and a response"):
        read(options(tmp_path, kind="choose", **changes))


def test_a_legacy_protocol_refuses_kinds_and_extractions_without_a_rule(tmp_path: Path):
    remedy = "generates its answers.*; use protocol=clean or multiple_choice=generate$"
    with pytest.raises(UserError, match=remedy):
        read(options(tmp_path, kind="choose"), protocol="legacy.toplora")
    with pytest.raises(UserError, match=remedy):
        read(options(tmp_path), protocol="legacy.toplora", multiple_choice="cloze")
    with pytest.raises(UserError, match=r"use protocol=clean$"):  # it cannot be generated
        read(options(tmp_path, kind="cloze", response=None), protocol="legacy.toplora")
    with pytest.raises(UserError, match="no rule for the choices wet, dry"):
        read(options(tmp_path, choices=["wet", "dry"]), protocol="legacy.toplora")
    with pytest.raises(UserError, match="no rule for extraction: exact"):
        read(options(tmp_path, extraction="exact", choices=[]), protocol="legacy.llm_adapters")


def test_the_identity_distinguishes_kinds_and_protocols(tmp_path: Path):
    identities = [
        identity(read(options(tmp_path), **evaluation)[0])
        for evaluation in (
            {},
            {"multiple_choice": "choose"},
            {"multiple_choice": "choose", "option_score": "mean"},
            {"multiple_choice": "cloze"},
            {"multiple_choice": "cloze", "option_score": "sum"},
            {"protocol": "legacy.toplora"},
        )
    ]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert identities[-1]["max_new_tokens"] == 256


def test_test_rows_take_the_form_of_the_training_rows():
    (eval_set,) = read({"arithmetic": ARITHMETIC}, limit=2)
    assert match_training_form(eval_set, "alpaca") is eval_set
    chat = match_training_form(eval_set, "chat")
    assert [row.messages[0].content for row in chat.rows.rows] == [
        row.instruction for row in eval_set.rows.rows
    ]
    assert chat.rows.sha256 != eval_set.rows.sha256  # so the protocol hash differs too
    with pytest.raises(
        UserError, match=r"task\.arithmetic: \S+test\.jsonl, line 1 is a conversation, but"
    ):
        match_training_form(chat, "alpaca")


def test_as_a_cloze_a_row_loses_its_list_and_is_scored_by_the_mean(tmp_path: Path):
    (read_in,) = read(options(tmp_path), multiple_choice="cloze")
    found = match_training_form(read_in, "alpaca")
    assert found.rows.rows[0].instruction == "Is water wet?"
    assert found.rows.rows[0].options == (("true", "true"), ("false", "false"))
    assert identity(found)["option_score"] == "mean"


def with_prompt(tmp_path: Path, prompt: str, question: str = "Is water wet?", **settings):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": question, "hint": "Think.", "gold": "true"}) + "\n")
    fields = {"instruction": "question", "answer": "gold"}
    known = {"source": str(rows), "fields": fields, "prompt": prompt}
    return {"wet": TaskSettings(name="wet", **(known | settings))}


def test_a_tasks_prompt_is_a_part_of_its_protocol_whatever_its_columns_are_called(tmp_path: Path):
    (first,) = read(with_prompt(tmp_path, "{hint} {question}"))
    (same,) = read(with_prompt(tmp_path, "{hint} {instruction}"))
    (other,) = read(with_prompt(tmp_path, "{question}"))
    assert protocol_of(first)["prompt"] == "{hint} {instruction}"
    assert (protocol_of(first), first.rows.sha256) == (protocol_of(same), same.rows.sha256)
    assert protocol_of(first) != protocol_of(other) and first.rows.sha256 != other.rows.sha256
    assert row_prompt(first.rows.rows[0]) == "Think. Is water wet?"
    assert prompt_mismatch(first, "{hint} {instruction}") is None
    assert "the training rows have the project's own prompt" in (prompt_mismatch(first, None) or "")


def test_a_cloze_keeps_the_tasks_prompt_around_the_question_alone(tmp_path: Path):
    listed = "Is water wet?\n\nAnswer format: true/false"
    choices = {"choices": ["true", "false"], "response": "{answer}", "extraction": "choice"}
    tasks = with_prompt(tmp_path, "{hint}\n{question}\n", listed, **choices)
    (found,) = read(tasks, multiple_choice="cloze")
    asked = match_training_form(found, "template").rows.rows[0]
    assert row_prompt(asked) == "Think.\nIs water wet?\n"
    (found,) = read(with_prompt(tmp_path, "{hint}", listed, **choices), multiple_choice="cloze")
    with pytest.raises(UserError, match=r"task\.wet\.prompt does not name the row's instruction"):
        match_training_form(found, "template")


def test_a_prompt_has_no_place_in_a_chat_template(tmp_path: Path):
    (found,) = read(with_prompt(tmp_path, "{question}"))
    with pytest.raises(UserError, match=r"task\.wet has a prompt of its own, but .* chat template"):
        match_training_form(found, "chat")


def test_a_prompt_and_its_completion_are_evaluated_verbatim_and_plain_text_is_not(tmp_path: Path):
    rows = tmp_path / "b.jsonl"
    dataset = DatasetSettings(name="jsonl", test=str(rows))
    rows.write_text('{"prompt": "2 + 2 =", "completion": " 4"}\n')
    (found,) = read({}, dataset)
    assert (found.prompt, row_prompt(found.rows.rows[0])) == ("{instruction}", "2 + 2 =")
    rows.write_text('{"prompt": "?", "completion": "!"}\n{"instruction": "?", "output": "!"}\n')
    with pytest.raises(UserError, match=r"line 1 and .*line 2 have different formats"):
        read({}, dataset)
    rows.write_text('{"text": "Once upon a time."}\n')
    with pytest.raises(UserError, match="plain text has no question to answer; for the loss"):
        read({}, dataset)
