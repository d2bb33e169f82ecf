from dataclasses import replace
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.run.prepare.resume_settings import resume_settings, with_defaults
from toplora_train.train.checkpoint import validate_same_settings


def test_nested_keys_become_dotted_ones_and_an_empty_mapping_is_none(make_run):
    config = make_run()
    gated = replace(config, adapter=config.adapter | {"gate": {"norm": "rms"}, "settings": {}})
    found = resume_settings(gated, rows_sha256="x")
    assert found["adapter.gate.norm"] == "rms" and "adapter.settings" not in found


def test_settings_that_affect_training_are_in_and_others_are_out(make_run):
    config = make_run()
    before = resume_settings(config, rows_sha256="x")
    logging = replace(config, trainer=replace(config.trainer, log_every=3, save_every=7, keep=5))
    smaller = replace(
        config, trainer=replace(config.trainer, micro_batch_size=1, activation_checkpointing=True)
    )
    for same in (logging, smaller):
        assert resume_settings(same, rows_sha256="x") == before
    changes = [
        replace(config, trainer=replace(config.trainer, batch_size=4)),
        replace(config, adapter=config.adapter | {"r": 2}),
        replace(config, optimizer=replace(config.optimizer, lr=0.5)),
        replace(config, seed=9),
    ]
    for changed in changes:
        now = resume_settings(changed, rows_sha256="x")
        assert len([key for key in before if before[key] != now[key]]) == 1
    assert resume_settings(config, rows_sha256="y")["dataset.rows"] == "y"


def test_the_start_is_represented_by_its_hash_not_its_location(make_run):
    config = make_run()
    here, there = (
        replace(config, adapter=config.adapter | {"start_from": path}) for path in ("a", "b")
    )
    of_here = resume_settings(here, rows_sha256="x", start_sha256="1")
    assert of_here == resume_settings(there, rows_sha256="x", start_sha256="1")
    assert of_here["adapter.start_from"] == "1"
    assert resume_settings(here, rows_sha256="x", start_sha256="2") != of_here


NEWER = ("dataset.special_tokens", "model.new_head", "model.resize_embeddings")


def test_a_key_that_is_newer_than_the_checkpoint_has_its_default(make_run):
    config = make_run()
    now = resume_settings(config, rows_sha256="x")
    older = with_defaults({key: now[key] for key in now if key not in NEWER}, now)
    validate_same_settings(Path("c"), older, now)
    resized = replace(config, model=replace(config.model, resize_embeddings=True))
    with pytest.raises(UserError, match=r"model\.resize_embeddings was False, now True"):
        validate_same_settings(Path("c"), older, resume_settings(resized, rows_sha256="x"))


def test_what_selects_the_best_adapter_stays_the_same(make_run):
    config = make_run()
    by_metric = replace(
        config,
        dataset=replace(config.dataset, validation_rows=4),
        trainer=replace(config.trainer, select="best", select_by="metric", eval_every=2),
    )
    task = replace(config.task["arithmetic"], extraction="exact")
    before, now = (
        resume_settings(one, rows_sha256="x")
        for one in (by_metric, replace(by_metric, task={"arithmetic": task}))
    )
    with pytest.raises(UserError, match=r"task\.arithmetic\.extraction was 'number', now 'exact'"):
        validate_same_settings(Path("c"), before, now)
    older = {key: value for key, value in before.items() if not key.startswith("task.")}
    validate_same_settings(Path("c"), with_defaults(older, now), now)
    assert not any(key.startswith("task.") for key in resume_settings(config, rows_sha256="x"))


def test_what_a_checkpoint_says_is_never_replaced_by_a_default():
    stored = {"model.new_head": True, "trainer.batch_size": 7}
    now = {"model.new_head": False, "trainer.batch_size": 8, "adapter.r": 4}
    assert with_defaults(stored, now) == stored


def test_a_run_with_another_prompt_is_another_run(make_run):
    config = make_run()
    first, second = (
        replace(config, dataset=replace(config.dataset, prompt=prompt))
        for prompt in ("Q: {instruction}", "{instruction}")
    )
    assert resume_settings(first, rows_sha256="x")["dataset.prompt"] == "Q: {instruction}"
    assert resume_settings(first, rows_sha256="x") != resume_settings(second, rows_sha256="x")
    assert "dataset.prompt" not in resume_settings(config, rows_sha256="x")


def test_a_run_with_another_protocol_is_another_run(make_run):
    config = make_run()
    legacy = replace(config, evaluation=replace(config.evaluation, protocol="legacy.toplora"))
    now, before = (resume_settings(one, rows_sha256="x") for one in (legacy, config))
    assert {key for key in now if now[key] != before[key]} == {"evaluation.protocol"}
    del before["evaluation.protocol"]  # of an earlier version
    assert with_defaults(before, now)["evaluation.protocol"] == "clean"
