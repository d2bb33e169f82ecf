"""What a search goes by is measured on held-out rows."""

from dataclasses import replace

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.study.objective import cost, validate_held_out


def with_trainer(**changes):
    config = run_config()
    return replace(config, trainer=replace(config.trainer, **changes))


def test_a_loss_is_minimized_and_a_metric_maximized():
    assert cost(with_trainer(), 2.5) == 2.5
    assert cost(with_trainer(select_by="metric", select="best"), 0.75) == 0.25
    assert cost(with_trainer(select="last"), 2.5) == 2.5


def test_a_search_needs_held_out_rows():
    config = run_config()
    with pytest.raises(UserError, match=r"none are held out; set dataset\.validation_rows"):
        validate_held_out(config)
    for held_out in ({"validation_rows": 4}, {"validation_share": 0.1}):
        validate_held_out(replace(config, dataset=replace(config.dataset, **held_out)))
