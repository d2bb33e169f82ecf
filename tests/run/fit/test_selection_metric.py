from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.run.fit.test_best_checkpoint import judged_run, step
from toplora_train.config.errors import UserError
from toplora_train.data.rows import Row
from toplora_train.evaluation.decoding.decode import Generated
from toplora_train.report.held_out import VALIDATION_LOSS
from toplora_train.run.fit import selection_metric
from toplora_train.run.fit.selection_metric import (
    answer_accuracy,
    find_selection_metric,
    head_metric,
    validation_loss_of,
)
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.run_data import prepare


def test_a_head_is_scored_at_the_ends_of_epochs_and_at_the_last_step_only(make_run, monkeypatch):
    monkeypatch.setattr(selection_metric, "_evaluation", lambda *_: lambda _model: 0.5)
    source = SimpleNamespace(source="made here")
    run_data = SimpleNamespace(lengths=[3] * 16, tokenizer=None, validation_rows=[], rows=source)
    metric = head_metric(judged_run(make_run), run_data, None)
    values = {number: metric(None, step(number, number / 2)) for number in range(1, 6)}
    assert values == {1: None, 2: 0.5, 3: None, 4: 0.5, 5: 0.5}


def test_a_language_model_is_scored_where_its_validation_loss_was_measured():
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


def test_the_default_metric_is_the_loss_for_a_language_model_and_the_tasks_with_a_head(make_run):
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


def test_accuracy_is_measured_where_the_validation_loss_was(make_run, monkeypatch):
    config = held_out(make_run, select_by="metric")
    run_data = prepare(config)
    model = load_base(config, run_data.location, None)
    metric = answer_accuracy(config, run_data, None)
    record = step(2, 0.5)
    assert metric(model, record) is None
    record.validation_loss = 1.5
    known = {row.instruction: row.answer for row in run_data.validation_rows[:3]}

    def written(_model, tokenizer, prompts, **_):
        for place, prompt in enumerate(prompts):
            text = tokenizer.decode(prompt)
            answer = next((known[one] for one in known if one in text), "none")
            yield Generated(place, answer, finished=True)

    monkeypatch.setattr("toplora_train.evaluation.methods.generate.generate", written)
    assert metric(model, record) == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"protocol": "legacy.toplora"}}, "the clean protocol only"),
        ({"launch": {"engine": "zero2", "processes": 2}}, "use launch=ddp, launch=fsdp2, or"),
    ],
    ids=["protocol", "engine"],
)
def test_accuracy_is_refused_where_it_cannot_be_measured(make_run, changes, message):
    config = held_out(make_run, select_by="metric")
    config = replace(
        config, **{group: replace(getattr(config, group), **of) for group, of in changes.items()}
    )
    with pytest.raises(UserError, match=message):
        answer_accuracy(config, SimpleNamespace(validation_rows=[]), None)


def test_rows_that_are_trained_as_a_cloze_are_scored_as_one(make_run, monkeypatch):
    config = held_out(make_run, select_by="metric")
    (task,) = config.task.values()
    config = replace(config, task={"x": replace(task, kind="cloze", extraction="choice")})
    row = Row("r", "Is it?", "", "yes", "a", options=(("a", "yes"), ("b", "no")))
    run_data = SimpleNamespace(validation_rows=[row], rows=SimpleNamespace(source="here"))
    kinds = []
    monkeypatch.setattr(selection_metric, "_evaluation", lambda *how: kinds.append(how[2].kind))
    answer_accuracy(config, run_data, None)
    assert kinds == ["cloze"]


def test_rows_without_an_answer_and_tasks_without_a_common_extraction_are_refused(make_run):
    config = held_out(make_run, select_by="metric")
    run_data = prepare(config)
    (row, *_) = run_data.validation_rows
    nameless = replace(run_data, validation_rows=[replace(row, answer="")])
    with pytest.raises(UserError, match=f"{row.place} is held out but has no 'answer'"):
        answer_accuracy(config, nameless, None)
    with pytest.raises(UserError, match="there is no task"):
        answer_accuracy(replace(config, task={}), run_data, None)
