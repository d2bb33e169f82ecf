from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.jobs.test_selection import judged_run, step
from toplora_train.config.errors import UserError
from toplora_train.jobs import judges
from toplora_train.jobs.judges import (
    VALIDATION_LOSS,
    by_answers,
    by_head,
    by_validation_loss,
    find_judge,
)
from toplora_train.jobs.material import prepare
from toplora_train.jobs.objective import load_base


def test_a_head_is_judged_at_the_ends_of_epochs_and_the_last_step_and_no_other(
    make_run, monkeypatch
):
    monkeypatch.setattr(judges, "_evaluation", lambda *_: lambda _model: 0.5)
    source = SimpleNamespace(source="made here")
    material = SimpleNamespace(lengths=[3] * 16, tokenizer=None, validation_rows=[], rows=source)
    judge = by_head(judged_run(make_run), material, None)
    values = {number: judge(None, step(number, number / 2)) for number in range(1, 6)}
    assert values == {1: None, 2: 0.5, 3: None, 4: 0.5, 5: 0.5}


def test_a_language_model_is_judged_where_its_loss_was_measured():
    record = step(3, 0.5)
    assert by_validation_loss(None, record) is None
    record.validation_loss = 1.5
    assert by_validation_loss(None, record) == 1.5


def held_out(make_run, **trainer):
    config = make_run()
    return replace(
        config,
        dataset=replace(config.dataset, validation_rows=6),
        trainer=replace(config.trainer, select="best", eval_every=2, **trainer),
    )


def test_the_loss_judges_a_language_model_and_the_metric_a_head_unless_it_is_said(make_run):
    source = SimpleNamespace(source="made here")
    material = SimpleNamespace(lengths=[3] * 16, validation_rows=[], rows=source)
    found = {
        (name, by): find_judge(
            replace(config, trainer=replace(config.trainer, select_by=by)), material, None
        )[1]
        for name, config in (("text", held_out(make_run)), ("head", judged_run(make_run)))
        for by in (None, "loss", "metric")
    }
    assert found == {
        ("text", None): VALIDATION_LOSS,
        ("text", "loss"): VALIDATION_LOSS,
        ("text", "metric"): "accuracy",
        ("head", None): "accuracy",
        ("head", "loss"): VALIDATION_LOSS,
        ("head", "metric"): "accuracy",
    }


def test_answers_are_judged_where_the_loss_was_measured(make_run, monkeypatch):
    """By the share of held-out rows that the model itself answers rightly."""
    config = held_out(make_run, select_by="metric")
    material = prepare(config)
    model = load_base(config, material.location, None)
    judge = by_answers(config, material, None)
    record = step(2, 0.5)
    assert judge(model, record) is None
    record.validation_loss = 1.5
    known = {row.instruction: row.answer for row in material.validation_rows[:3]}

    def written(_model, tokenizer, prompts, **_):
        for place, prompt in enumerate(prompts):
            asked = tokenizer.decode(prompt)
            yield place, next((known[one] for one in known if one in asked), "none")

    monkeypatch.setattr("toplora_train.evaluation.methods.generate.generate", written)
    assert judge(model, record) == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation": {"protocol": "legacy.toplora"}}, "asks in the clean protocol"),
        ({"launch": {"engine": "fsdp2", "processes": 2}}, "use launch=ddp, or select_by=loss"),
    ],
    ids=["protocol", "engine"],
)
def test_what_cannot_judge_by_answers_is_refused(make_run, changes, said):
    config = held_out(make_run, select_by="metric")
    config = replace(
        config, **{group: replace(getattr(config, group), **of) for group, of in changes.items()}
    )
    with pytest.raises(UserError, match=said):
        by_answers(config, SimpleNamespace(validation_rows=[]), None)


def test_rows_without_an_answer_and_tasks_without_a_common_reading_are_refused(make_run):
    config = held_out(make_run, select_by="metric")
    material = prepare(config)
    (row, *_) = material.validation_rows
    nameless = replace(material, validation_rows=[replace(row, answer="")])
    with pytest.raises(UserError, match=f"{row.place} is held out and has no 'answer'"):
        by_answers(config, nameless, None)
    with pytest.raises(UserError, match="there is no task"):
        by_answers(replace(config, task={}), material, None)
