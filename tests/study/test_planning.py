"""Jobs before they are launched."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.study.planning import (
    ComposedOnce,
    Planned,
    identity,
    validate_not_all_refused,
)


def test_a_refused_job_is_failed_and_recognized_by_its_overrides():
    job = Planned("seed=-1", None, "seed must be at least 0").refused()
    assert (job.status, job.exit_code, job.error) == ("failed", 2, "seed must be at least 0")
    assert job.digest == Planned("seed=-1", None, "other").refused().digest


def test_a_study_is_told_apart_by_recipe_model_data_and_task():
    one, other = run_config(), run_config(dataset__train="other.jsonl", seed=3)
    assert identity([one, other]) == {
        "recipe": ["None"],
        "model": ["tiny"],
        "dataset.train": ["other.jsonl", "owner/rows"],
        "task": ["[boolq]"],
    }
    assert identity([]) == {}


def test_one_reason_for_all_jobs_is_said_once():
    with pytest.raises(UserError, match="same"):
        validate_not_all_refused([Planned("a", None, "same"), Planned("b", None, "same")])
    with pytest.raises(UserError, match="none of the 2 jobs can run; the first: a: one"):
        validate_not_all_refused([Planned("a", None, "one"), Planned("b", None, "another")])
    validate_not_all_refused([Planned("a", None, "one"), Planned("b", run_config())])


def test_a_job_is_composed_once_for_its_plan_and_its_run():
    composed = []

    def load(_master, overrides):
        composed.append(overrides)
        return OmegaConf.create({"seed": 1, "hydra": {"job": {"num": None}}})

    loader = ComposedOnce(SimpleNamespace(load_sweep_config=load, other="Hydra's"))
    master = OmegaConf.create({"hydra": {"overrides": {"hydra": ["hydra.mode=MULTIRUN"]}}})
    planned = loader.load_sweep_config(master, ["seed=1"])
    del planned["hydra"]  # the plan's own
    assert loader.load_sweep_config(master, ["seed=1"]).hydra.job.num is None
    assert composed == [["seed=1"]]
    loader.load_sweep_config(master, ["seed=2"])
    master.hydra.overrides.hydra.append("hydra.sweep.dir=S")
    loader.load_sweep_config(master, ["seed=2"])
    assert composed == [["seed=1"], ["seed=2"], ["seed=2"]]
    assert loader.other == "Hydra's"
