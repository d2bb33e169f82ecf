from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.jobs.material import prepare, total_steps


def test_rows_tokens_and_tests_are_known_before_any_weight(make_run):
    config = make_run()
    material = prepare(config, weights=False)
    assert len(material.train) == 20
    assert material.validation == []
    assert [len(test_set.rows.rows) for test_set in material.test_sets] == [3]


def test_held_out_rows_are_not_trained_on(make_run):
    config = make_run()
    material = prepare(replace(config, dataset=replace(config.dataset, validation_rows=6)))
    assert (len(material.train), len(material.validation)) == (14, 6)
    assert not set(material.train) & set(material.validation)


def test_steps_follow_epochs_unless_max_steps_is_given(make_run):
    config = make_run()
    assert total_steps(config, rows=20) == 4
    epochs = replace(config, trainer=replace(config.trainer, max_steps=None, epochs=2))
    assert total_steps(epochs, rows=20) == 2 * 3


def test_rows_that_do_not_fit_are_an_error_before_any_weight(make_run):
    config = make_run()
    with pytest.raises(UserError, match=r"dataset\.max_length"):
        prepare(replace(config, dataset=replace(config.dataset, max_length=20)))
