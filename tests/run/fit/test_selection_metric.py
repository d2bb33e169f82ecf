from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.run.fit.test_best_checkpoint import judged_run, step
from toplora_train.config.errors import UserError
from toplora_train.run.fit import selection_metric
from toplora_train.run.fit.selection_metric import (
    VALIDATION_LOSS,
    answer_accuracy,
    find_selection_metric,
    head_metric,
    validation_loss_of,
)
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.run_data import prepare


def test_a_head_is_judged_at_the_ends_of_epochs_and_the_last_step_and_no_other(
    make_run, monkeypatch
):
    monkeypatch.setattr(selection_metric, "_evaluation", lambda *_: lambda _model: 0.5)
    source = SimpleNamespace(source="made here")
    run_data = SimpleNamespace(lengths=[3] * 16, tokenizer=None, validation_rows=[], rows=source)
    judge = head_metric(judged_run(make_run), run_data, None)
    values = {number: judge(None, step(number, number / 2)) for number in range(1, 6)}
    assert values == {1: None, 2: 0.5, 3: None, 4: 0.5, 5: 0.5}


def test_a_language_model_is_judged_where_its_loss_was_measured():
    record = step(3, 0.5)
    assert validation_loss_of(None, record) is None
    record.validation_loss = 1.5
    assert validation_loss_of(None, record) == 1.5


def held_out(make_run, **trainer):
    config = make_run()
    return replace(
        config,
        dataset=replace(config.dataset, validation_rows=6),
        trainer=replace(config.trainer, select="best", eval_every=2, **trainer),
    )


def test_the_loss_judges_a_language_model_and_the_metric_a_head_unless_it_is_said(make_run):
    source = SimpleNamespace(source="made here")
    run_data = SimpleNamespace(lengths=[3] * 16, validation_rows=[], rows=source)
    found = {
        (name, by): find_selection_metric(
            replace(config, trainer=replace(config.trainer, select_by=by)), run_data, None
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
    run_data = prepare(config)
    model = load_base(config, run_data.location, None)
    judge = answer_accuracy(config, run_data, None)
    record = step(2, 0.5)
    assert judge(model, record) is None
    record.validation_loss = 1.5
    known = {row.instruction: row.answer for row in run_data.validation_rows[:3]}

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
        answer_accuracy(config, SimpleNamespace(validation_rows=[]), None)


def test_rows_without_an_answer_and_tasks_without_a_common_reading_are_refused(make_run):
    config = held_out(make_run, select_by="metric")
    run_data = prepare(config)
    (row, *_) = run_data.validation_rows
    nameless = replace(run_data, validation_rows=[replace(row, answer="")])
    with pytest.raises(UserError, match=f"{row.place} is held out and has no 'answer'"):
        answer_accuracy(config, nameless, None)
    with pytest.raises(UserError, match="there is no task"):
        answer_accuracy(replace(config, task={}), run_data, None)
