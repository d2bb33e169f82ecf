from dataclasses import replace

from toplora_train.run.prepare.resume_settings import flatten, resume_settings


def test_nested_keys_become_dotted_ones():
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


def test_settings_that_affect_training_are_in_and_others_are_out(make_run):
    config = make_run()
    before = resume_settings(config, rows_sha256="x")
    logging = replace(config, trainer=replace(config.trainer, log_every=3, save_every=7, keep=5))
    assert resume_settings(logging, rows_sha256="x") == before
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
