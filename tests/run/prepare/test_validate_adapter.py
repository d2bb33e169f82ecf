"""Mistakes in the adapter show before slow work."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.run import finetune
from toplora_train.run.prepare import objective


def test_an_unusable_adapter_is_refused_before_a_weight_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = []
    real = objective.load_model
    monkeypatch.setattr(
        objective,
        "load_model",
        lambda *args, **kwargs: (loaded.append(kwargs.get("meta", False)), real(*args, **kwargs))[
            1
        ],
    )
    config = tiny_run(tmp_path)
    with pytest.raises(UserError, match="r must be"):
        finetune.run(replace(config, adapter=config.adapter | {"r": 0}), tmp_path)
    assert loaded == [True]


def test_a_target_that_matches_nothing_lists_the_linear_modules(tmp_path: Path):
    config = tiny_run(tmp_path)
    config = replace(config, adapter=config.adapter | {"target_modules": ["quary"]})
    with pytest.raises(UserError, match=r"quary.*q_proj"):
        finetune.run(config, tmp_path)
