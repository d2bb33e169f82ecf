from dataclasses import replace

from toplora_train.run.prepare.resume_settings import flatten, resume_settings


def test_nested_keys_become_dotted_ones():
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


def test_what_decides_the_training_is_in_and_what_does_not_is_out(make_run):
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


def test_the_start_stands_for_itself_by_its_hash_not_by_where_it_lies(make_run):
    config = make_run()
    here, there = (
        replace(config, adapter=config.adapter | {"start_from": path}) for path in ("a", "b")
    )
    of_here = resume_settings(here, rows_sha256="x", start_sha256="1")
    assert of_here == resume_settings(there, rows_sha256="x", start_sha256="1")
    assert of_here["adapter.start_from"] == "1"
    assert resume_settings(here, rows_sha256="x", start_sha256="2") != of_here


def test_a_run_with_another_prompt_is_another_run(make_run):
    config = make_run()
    first, second = (
        replace(config, dataset=replace(config.dataset, prompt=prompt))
        for prompt in ("Q: {instruction}", "{instruction}")
    )
    assert resume_settings(first, rows_sha256="x")["dataset.prompt"] == "Q: {instruction}"
    assert resume_settings(first, rows_sha256="x") != resume_settings(second, rows_sha256="x")
    assert "dataset.prompt" not in resume_settings(config, rows_sha256="x")
