"""A GPU for each job that runs beside others."""

import os
from contextlib import ExitStack

import pytest

from tests.config.example import run_config
from toplora_train.study import gpus
from toplora_train.study.folder import Study
from toplora_train.study.gpus import KEPT, THREADS, VISIBLE, keep_visible, one_gpu, threads_each


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,7")


def four_jobs(folder, monkeypatch):
    """Jobs that hold a place, two on each of two GPUs, with the GPU of each."""
    held = []
    for _ in range(4):
        monkeypatch.setenv(VISIBLE, "4,7")
        job = one_gpu(Study(folder), run_config(), "joblib", jobs_per_gpu=2)
        job.__enter__()
        held.append((os.environ[VISIBLE], job))
    return held


@pytest.mark.usefixtures("two")
def test_jobs_at_once_have_different_gpus_and_free_them(tmp_path):
    with one_gpu(Study(tmp_path), run_config(), "joblib"):
        assert os.environ[VISIBLE] == "4"
        os.environ[VISIBLE] = "4,7"  # as in the other job's process
        with one_gpu(Study(tmp_path), run_config(), "joblib"):
            assert os.environ[VISIBLE] == "7"
    with one_gpu(Study(tmp_path), run_config(), "joblib"):
        assert os.environ[VISIBLE] == "4"
    assert os.environ[VISIBLE] == "4,7"


@pytest.mark.usefixtures("two")
def test_a_job_waits_for_a_free_gpu(tmp_path, monkeypatch):
    held = one_gpu(Study(tmp_path), run_config(), "joblib")
    monkeypatch.setenv(VISIBLE, "4")
    held.__enter__()
    monkeypatch.setattr(gpus.time, "sleep", lambda _: held.__exit__(None, None, None))
    with one_gpu(Study(tmp_path), run_config(), "joblib"):
        assert os.environ[VISIBLE] == "4"


@pytest.mark.usefixtures("two")
def test_a_study_that_stops_ends_the_wait_for_a_gpu(tmp_path, monkeypatch):
    study = Study(tmp_path)
    monkeypatch.setattr(gpus.time, "sleep", lambda _: study.stop())
    monkeypatch.setenv(VISIBLE, "4")
    with one_gpu(study, run_config(), "joblib"), one_gpu(study, run_config(), "joblib"):
        assert study.stops()
    assert os.environ[VISIBLE] == "4"


@pytest.mark.usefixtures("two")
def test_jobs_that_share_gpus_start_on_idle_ones(tmp_path, monkeypatch):
    with ExitStack() as stack:
        jobs = four_jobs(tmp_path, monkeypatch)
        taken = [gpu for gpu, _ in jobs]
        for _, job in jobs:
            stack.push(job)
        assert taken == ["4", "7", "4", "7"]
        monkeypatch.setenv(VISIBLE, "4,7")
        monkeypatch.setattr(gpus.time, "sleep", lambda _: stack.close())
        with one_gpu(Study(tmp_path), run_config(), "joblib", jobs_per_gpu=2):
            assert os.environ[VISIBLE] == "4"


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("engine", "launch"),
    [("basic", {}), ("joblib", {"processes": 2}), ("joblib", {"device": "cpu"}), ("ray", {})],
)
def test_other_jobs_see_all_gpus(tmp_path, engine, launch):
    with one_gpu(Study(tmp_path), run_config(launch=launch), engine):
        assert os.environ[VISIBLE] == "4,7"


def test_a_machine_without_gpus_reserves_none(tmp_path, monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "none")
    with one_gpu(Study(tmp_path), run_config(), "joblib"):
        assert VISIBLE not in os.environ
    (tmp_path / "none" / "0000:01").mkdir(parents=True)
    with one_gpu(Study(tmp_path), run_config(), "joblib"):
        assert os.environ[VISIBLE] == "0"
    assert VISIBLE not in os.environ


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("launch", "seen"), [({}, "4"), ({"processes": 2}, "4,7")])
def test_jobs_of_submitit_see_the_gpus_that_it_hides(tmp_path, monkeypatch, launch, seen):
    monkeypatch.setenv(KEPT, "")
    monkeypatch.delenv(KEPT)
    keep_visible()
    monkeypatch.setenv(VISIBLE, "")  # as submitit sets it in the job's process
    with one_gpu(Study(tmp_path), run_config(launch=launch), "submitit_local"):
        assert os.environ[VISIBLE] == seen
    assert os.environ[VISIBLE] == ""


@pytest.mark.parametrize(
    ("jobs", "gpus", "jobs_per_gpu", "set_by_user", "each"),
    [
        (4, "", 1, None, "2"),
        (12, "", 1, None, "1"),
        (12, "0,1", 1, None, "4"),
        (12, "0,1", 2, None, "2"),
        (1, "", 1, None, None),
        (4, "", 1, "3", "3"),
    ],
)
def test_jobs_at_once_share_the_cores(monkeypatch, jobs, gpus, jobs_per_gpu, set_by_user, each):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv(VISIBLE, gpus)
    monkeypatch.delenv(THREADS, raising=False)
    if set_by_user:
        monkeypatch.setenv(THREADS, set_by_user)
    with threads_each(jobs, jobs_per_gpu=jobs_per_gpu):
        assert os.environ.get(THREADS) == each
    assert os.environ.get(THREADS) == set_by_user


@pytest.mark.usefixtures("two")
def test_a_job_starts_on_the_gpu_with_fewer_jobs(tmp_path, monkeypatch):
    """Of two and two jobs, both of the first GPU and one of the second have ended."""
    with ExitStack() as rest:
        held = four_jobs(tmp_path, monkeypatch)
        kept = next(job for gpu, job in held if gpu == "4")
        for _, job in held:
            if job is not kept:
                job.__exit__(None, None, None)
        rest.callback(kept.__exit__, None, None, None)
        monkeypatch.setenv(VISIBLE, "4,7")
        with one_gpu(Study(tmp_path), run_config(), "joblib", jobs_per_gpu=2):
            assert os.environ[VISIBLE] == "7"
