"""Hydra's sweep without its validation of every job before the first, and one in phases."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from toplora_train import cli
from toplora_train.config.resolved import write_config
from toplora_train.launch.parent import JobResult
from toplora_train.report.jobs import read_jobs, superseded
from toplora_train.study import job as study_job
from toplora_train.study.folder import Study
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


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call ``toplora-train``; a run's validation loss is its distance from each adapter's rate."""
    best = {"lora": 1e-3, "toplora": 1e-2}

    def run_job(config, **_) -> JobResult:
        run_dir = Path(config.output_dir)
        if call.refuses:
            return JobResult(2, run_dir, 1.0)
        if not config.trains:
            return JobResult(0, run_dir, 1.0, planned=7.0)
        call.jobs.append((run_dir.relative_to(tmp_path / "S").as_posix(), config))
        if len(call.jobs) == call.interrupted_at:
            return JobResult(130, run_dir, 1.0)
        loss = abs(config.optimizer.lr - best[config.adapter["name"]])
        write_config(config, run_dir / "config.yaml")
        report = {"status": "completed", "train": {"validation_loss": loss}}
        (run_dir / "report.json").write_text(json.dumps(report))
        return JobResult(0, run_dir, 1.0)

    def call(*words: str) -> tuple[int, str, str]:
        call.jobs.clear()
        monkeypatch.setattr(sys, "argv", ["toplora-train", "recipe=smoke", *words])
        code = cli.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    call.jobs, call.interrupted_at, call.refuses, call.best = [], None, False, best
    monkeypatch.setattr(study_job, "run_job", run_job)
    monkeypatch.chdir(tmp_path)
    return call


STUDY = (
    "study=lr_per_adapter",
    "adapter=lora,toplora",
    "study.rates=[1e-3,1e-2]",
    "study.tuning_seeds=[1]",
    "study.seeds=[11]",
    "dataset.validation_rows=8",
    "output_dir=S",
)


def test_a_study_in_phases_is_one_command_that_can_be_continued(call):
    call.interrupted_at = 3
    assert call(*STUDY)[0] == 130
    assert len(call.jobs) == 3
    call.interrupted_at = None
    code, shown, _ = call(*STUDY, "-m")
    assert code == 0, shown
    assert "continues" in shown
    assert [folder for folder, _ in call.jobs] == [
        "tuning/adapter-toplora_optimizer.lr-0.001_seed-1",
        "tuning/adapter-toplora_optimizer.lr-0.01_seed-1",
        "adapter-lora_optimizer.lr-0.001_seed-11",
        "adapter-toplora_optimizer.lr-0.01_seed-11",
    ]
    assert [config.evaluation.enabled for _, config in call.jobs] == [False, False, True, True]


def test_a_study_that_is_given_other_tuning_seeds_chooses_by_them_alone(call, tmp_path):
    assert call(*STUDY)[0] == 0
    call.best["lora"] = 1e-2
    assert call(*STUDY, "study.tuning_seeds=[2,3]")[0] == 0
    assert [folder for folder, _ in call.jobs if "tuning" not in folder] == [
        "adapter-lora_optimizer.lr-0.01_seed-11"
    ]
    assert {one for one in superseded(read_jobs(tmp_path / "S")) if "tuning" not in one} == {
        "adapter-lora_optimizer.lr-0.001_seed-11"
    }


def test_methods_that_are_tuned_one_after_the_other_are_both_compared(call, tmp_path):
    one_by_one = [word for word in STUDY if not word.startswith("adapter=")]
    for method in ("adapter=lora", "adapter=toplora"):
        assert call(*one_by_one, method)[0] == 0
    assert len(read_jobs(tmp_path / "S")) == 6
    assert superseded(read_jobs(tmp_path / "S")) == set()


def test_a_trial_that_cannot_be_extended_does_not_count_with_its_shorter_run(call):
    assert call(*STUDY)[0] == 0
    call.refuses = True
    _, shown, _ = call(*STUDY, "resume=extend", "trainer.max_steps=99")
    assert "adapter=lora: all its tuning jobs failed" in shown


def test_planning_a_study_plans_each_method_once_and_counts_the_jobs(call, tmp_path):
    code, shown, _ = call(*STUDY, "plan=true")
    assert code == 0
    assert [line.split("│")[1:5] for line in shown.splitlines() if line.startswith("│")] == [
        [" tuning ", " adapter=lora    ", "    2 ", "               14 s "],
        [" tuning ", " adapter=toplora ", "    2 ", "               14 s "],
        [" final  ", " adapter=lora    ", "    1 ", "              7.0 s "],
        [" final  ", " adapter=toplora ", "    1 ", "              7.0 s "],
    ]
    assert "6 jobs, at least 42 s of training" in shown
    assert list(tmp_path.iterdir()) == []
    assert "2 jobs, at least 14 s of training" in call("-m", "seed=1,2", "plan=true")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.validation_rows=0"], "compared on held-out rows, never on the test set"),
        (["dataset.validation_rows=0", "plan=true"], "compared on held-out rows"),
        (["seed=3"], "study=lr_per_adapter sets seed itself; set study.tuning_seeds"),
        (["study.ratez=[1]"], "unknown key 'study.ratez' for study=lr_per_adapter; did you mean"),
        (["study=lr_per_adaptor"], "did you mean 'lr_per_adapter'?"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_line(call, words, message):
    keys = [word.partition("=")[0] for word in words]
    kept = [one for one in STUDY if one.partition("=")[0] not in keys]
    code, _, error = call(*kept, *words)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_key_of_a_study_needs_the_study(call):
    assert "none is chosen; give study=NAME" in call("study.rates=[1e-3]")[2]


@pytest.mark.parametrize("words", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]])
def test_an_interrupted_job_is_the_last_of_a_sweep_in_one_process(call, words):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    call.interrupted_at = 2
    code, shown, _ = call("-m", "seed=1,2,3", "output_dir=S", *words)
    assert code == 130
    assert len(call.jobs) == 2
    assert "1 of 3 jobs completed" in shown
    assert "interrupted; the same command goes on" in shown


def test_a_stop_file_left_behind_does_not_end_the_next_sweep(call, tmp_path):
    (tmp_path / "S").mkdir()
    Study(tmp_path / "S").stop()
    assert call("-m", "seed=1,2", "output_dir=S")[0] == 0
    assert len(call.jobs) == 2
