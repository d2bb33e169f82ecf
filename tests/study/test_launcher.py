"""The launcher before every launcher; its whole way is tested in ``tests/test_cli.py``."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.config.example import run_config
from toplora_train.study.folder import Study
from toplora_train.study.interrupt import leave_signals_to_jobs
from toplora_train.study.launcher import (
    BASIC_SWEEPER,
    JOBLIB_LAUNCHER,
    RAY_LAUNCHER,
    StudyLauncher,
    StudyStart,
    quoted,
    take_started,
)


@pytest.fixture
def launcher(tmp_path):
    launcher = StudyLauncher(SimpleNamespace(_target_="some.parallel.Launcher"))
    launcher.study = Study(tmp_path)
    jobs = launcher.study.place([(f"seed={seed}", run_config(seed=seed)) for seed in (1, 2)])
    launcher.study.write({"time": "now"}, jobs, {})
    launcher._placed = {job.digest: job for job in jobs}
    return launcher


def test_a_job_whose_process_is_killed_with_its_launcher_is_failed_and_said_to_be(launcher, capsys):
    first, second = launcher.study.jobs()

    def launch(_batch, _first):
        launcher.study.record(first, "started")
        raise RuntimeError("a worker process was killed\nand more")

    launcher._engine = SimpleNamespace(launch=launch)
    launcher._launch([["seed=1"], ["seed=2"]], [first, second], 0)
    killed, waiting = launcher.jobs()
    assert killed.error == "its process was killed (RuntimeError: a worker process was killed)"
    assert waiting.status == "waiting"
    assert launcher.exit_codes() == [1, 1]
    assert "error: the launcher failed: RuntimeError: a worker" in capsys.readouterr().err


def test_an_interruption_of_a_parallel_launcher_is_no_failure_of_its_jobs(launcher):
    import os

    def launch(_batch, _first):
        launcher.study.record(launcher.study.jobs()[0], "started")
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("its processes have ended")

    launcher._engine = SimpleNamespace(launch=launch)
    with pytest.raises(SystemExit):
        launcher._launch([["seed=1"]], launcher.study.jobs()[:1], 0)
    assert launcher.jobs()[0].status == "running"


def test_the_best_job_is_the_one_of_the_smallest_cost(launcher):
    assert launcher.best() is None
    first, second = launcher.study.jobs()
    launcher._costs = {first.digest: 0.5, second.digest: 0.25}
    assert launcher.best() == second


@pytest.mark.parametrize("name", ["S", "a folder's", 'with "quotes"', "a,b=c", "back\\slash"])
def test_any_folder_is_a_value_in_hydras_grammar(name):
    (parsed,) = OverridesParser.create().parse_overrides([f"x={quoted(Path('/tmp') / name)}"])
    assert parsed.value() == f"/tmp/{name}"


def test_no_sweep_was_started():
    assert take_started() is None


def test_joblibs_processes_ignore_signals_that_the_sweeps_process_handles():
    hydra = {"launcher": {"_target_": JOBLIB_LAUNCHER}, "sweeper": {"_target_": BASIC_SWEEPER}}
    config = OmegaConf.create({"hydra": hydra})
    StudyStart(prune=True).on_multirun_start(config)
    assert instantiate(config.hydra.launcher.engine.initializer) is leave_signals_to_jobs


@pytest.mark.parametrize(("address", "own"), [("auto", False), (None, True)])
def test_a_running_ray_cluster_is_not_given_a_memory_size(address, own):
    ray = {"_target_": RAY_LAUNCHER, "ray": {"init": {"address": address}}}
    hydra = {"launcher": ray, "sweeper": {"_target_": BASIC_SWEEPER}, "overrides": {"hydra": []}}
    config = OmegaConf.create({"hydra": hydra})
    StudyStart(prune=True).on_multirun_start(config)
    init = config.hydra.launcher.engine.ray.init
    assert init.setdefault("object_store_memory", 78643200) == (78643200 if own else None)
