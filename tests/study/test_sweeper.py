"""Hydra's sweep without its validation of every job before the first."""

from types import SimpleNamespace

import pytest

from toplora_train.study.sweeper import Combinations


@pytest.mark.parametrize(
    ("size", "batches"), [(None, [(0, 4)]), (3, [(0, 3), (3, 1)])], ids=["at once", "in batches"]
)
def test_every_combination_is_launched_and_nothing_is_written(tmp_path, monkeypatch, size, batches):
    monkeypatch.chdir(tmp_path)
    launched = []
    sweeper = Combinations(max_batch_size=size, params={"c": "5"})
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    sweeper.launcher = SimpleNamespace(
        launch=lambda batch, initial_job_idx: launched.append((initial_job_idx, batch))
    )
    sweeper.sweep(["a=1,2", "no.such.key=x,y"])
    assert [(number, len(batch)) for number, batch in launched] == batches
    assert launched[0][1][0] == ["c=5", "a=1", "no.such.key=x"]
    assert list(tmp_path.iterdir()) == []
