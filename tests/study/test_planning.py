"""Jobs before they are launched."""

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.study.planning import Planned, identity, validate_not_all_refused


def test_a_refused_job_is_failed_and_recognized_by_its_overrides():
    job = Planned("seed=-1", None, "seed must be at least 0").refused()
    assert (job.status, job.exit_code, job.error) == ("failed", 2, "seed must be at least 0")
    assert job.digest == Planned("seed=-1", None, "other").refused().digest


def test_a_study_is_told_apart_by_recipe_model_data_and_task():
    one, other = run_config(), run_config(dataset__train="other.jsonl", seed=3)
    assert identity([one, other]) == {
        "recipe": ["None"],
        "model": ["tiny"],
        "dataset.train": ["other.jsonl", "rows.jsonl"],
        "task": ["[boolq]"],
    }
    assert identity([]) == {}


def test_one_reason_for_all_jobs_is_said_once():
    with pytest.raises(UserError, match="same"):
        validate_not_all_refused([Planned("a", None, "same"), Planned("b", None, "same")])
    with pytest.raises(UserError, match="none of the 2 jobs can run; the first: a: one"):
        validate_not_all_refused([Planned("a", None, "one"), Planned("b", None, "another")])
    validate_not_all_refused([Planned("a", None, "one"), Planned("b", run_config())])
