"""A budget is replaced by ranks before the run."""

import json
from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.run import finetune, plan
from toplora_train.run.prepare.budget import within_budget
from toplora_train.run.prepare.run_data import prepare


def with_budget(config, budget):
    return replace(config, adapter={**config.adapter, "budget": budget})


def test_a_run_without_a_budget_stays_as_it_is(make_run):
    config = make_run()
    assert within_budget(config, prepare(config)) == (config, None)


def test_the_settings_have_the_ranks_and_a_line_the_deviation(make_run):
    config = with_budget(make_run(), "lora_r8")
    settled, line = within_budget(config, prepare(config))
    assert (settled.adapter["r"], settled.adapter["budget"]) == (5, None)
    assert line.startswith("adapter.budget: r = 5: 5,150 parameters for a budget of 5,120 (+0.59%)")


def test_a_budget_that_cannot_be_met_stops_the_run_before_it_starts(make_run):
    config = with_budget(make_run(), 10)
    with pytest.raises(UserError, match=r"^adapter\.budget of 10 parameters is below the smallest"):
        within_budget(config, prepare(config))


def test_report_and_terminal_name_the_rank(make_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    finetune.run(with_budget(make_run(), "lora_r8"), run_dir)
    report = json.loads((run_dir / "report.json").read_text())
    adapter = report["adapter"]
    assert (adapter["settings"]["r"], adapter["trainable_parameters"]) == (5, 5_150)
    assert "adapter.budget: r = 5: 5,150 parameters" in capsys.readouterr().out
    assert report["notes"][0].startswith("adapter.budget: r = 5: 5,150 parameters")


def test_the_plan_shows_the_rank_and_every_adapter(make_run, capsys):
    plan.run(with_budget(make_run(), "lora_r8"))
    shown = capsys.readouterr().out
    assert "adapter.budget: r = 5: 5,150 parameters" in shown
    assert "at the same budget (lora_r8)" in shown
    assert "tenslora att_qkv_depth, cp" in shown
