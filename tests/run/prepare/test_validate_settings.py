"""Conflicting settings are refused by a run and by its plan, with the same message."""

from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.run import finetune, plan
from toplora_train.run.prepare.validate_settings import validate_settings

UNFIT = {
    "eval_every": (
        {"trainer": {"eval_every": 3}},
        1,
        r"^trainer\.eval_every=3 needs held-out rows",
    ),
    "patience": (
        {"trainer": {"select": "last", "patience": 2}},
        1,
        r"^trainer\.patience stops when the best adapter",
    ),
    "compile": (
        {"trainer": {"compile": "aot_eager", "activation_checkpointing": True}},
        1,
        r"^trainer\.compile: torch does not compile layers",
    ),
    "muon": (
        {"optimizer": {"name": "muon"}, "launch": {"engine": "zero2", "processes": 2}},
        2,
        r"^optimizer=muon needs whole matrices",
    ),
    "auto": (
        {"trainer": {"micro_batch_size": "auto"}, "launch": {"engine": "fsdp2", "processes": 2}},
        2,
        r"^trainer\.micro_batch_size=auto tries passes",
    ),
    "8bit": (
        {"model": {"quantization": "8bit"}, "launch": {"engine": "fsdp2", "processes": 2}},
        2,
        r"^model\.quantization=8bit does not work with launch=fsdp2",
    ),
}


def changed(config, groups: dict):
    return replace(
        config, **{name: replace(getattr(config, name), **keys) for name, keys in groups.items()}
    )


@pytest.mark.parametrize("name", UNFIT)
def test_settings_that_exclude_each_other_are_refused(make_run, name: str):
    groups, processes, message = UNFIT[name]
    with pytest.raises(UserError, match=message):
        validate_settings(changed(make_run(), groups), processes=processes)


@pytest.mark.parametrize("name", UNFIT)
def test_a_plan_refuses_them_too(make_run, name: str):
    groups, _, message = UNFIT[name]
    with pytest.raises(UserError, match=message):
        plan.run(changed(make_run(), groups))


@pytest.mark.parametrize("name", ["eval_every", "patience", "compile"])
def test_a_run_refuses_them_before_it_reads_a_row(make_run, tmp_path, name: str):
    groups, _, message = UNFIT[name]
    config = changed(make_run(), groups | {"dataset": {"train": "nowhere.jsonl"}})
    with pytest.raises(UserError, match=message):
        finetune.run(config, tmp_path)


def test_a_usual_run_passes(make_run):
    validate_settings(make_run(), processes=1)


def test_held_out_rows_may_be_validated_on(make_run):
    held_out = {"trainer": {"eval_every": 3}, "dataset": {"validation_share": 0.2}}
    validate_settings(changed(make_run(), held_out), processes=1)
