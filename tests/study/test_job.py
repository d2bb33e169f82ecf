"""A job of a study, in the process of its launcher."""

import json

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.launch.lock import locked
from toplora_train.launch.parent import JobResult
from toplora_train.study import gpus
from toplora_train.study import job as module
from toplora_train.study.folder import Study


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path)
    study.write({"time": "now"}, study.place([("seed=1", run_config(seed=1))]), {})
    return study


def run(study, monkeypatch, engine="basic", *, code=0, error=None):
    """Run the study's job with a stand-in for the training process."""
    (job,) = study.jobs()
    ran = []

    def train(config, *, console):
        ran.append(console)
        if isinstance(error, Exception):
            raise error
        print("from the job")
        write_config(config, study.run_dir(job) / "config.yaml")
        if code == 0:
            report = {"status": "completed", "train": {"validation_loss": 2.5}}
            (study.run_dir(job) / "report.json").write_text(json.dumps(report))
        return JobResult(code, study.run_dir(job), 1.5, error)

    monkeypatch.setattr(module, "run_job", train)
    return module._run(study, job, run_config(seed=1), engine=engine), ran


def test_a_completed_job_returns_its_held_out_result_and_does_not_run_again(study, monkeypatch):
    value, ran = run(study, monkeypatch)
    assert (value, len(ran)) == (2.5, 1)
    (job,) = study.jobs()
    assert (job.status, job.value, job.seconds) == ("completed", 2.5, 1.5)
    assert run(study, monkeypatch) == (2.5, [])


def test_a_job_beside_others_prints_to_its_own_file(study, monkeypatch, capsys):
    _, (console,) = run(study, monkeypatch, "joblib")
    assert console is not None
    assert capsys.readouterr().out == ""
    assert (study.path / "seed-1" / module.CONSOLE).read_text() == "from the job\n"


def test_a_refusal_is_recorded_in_the_job_and_in_the_study(study, monkeypatch, capsys):
    value, _ = run(study, monkeypatch, error=UserError("in use by process 7"))
    assert value is None
    assert "error: in use by process 7" in capsys.readouterr().err
    assert study.jobs()[0].error == "in use by process 7"
    assert json.loads((study.path / "seed-1" / "report.json").read_text())["status"] == "failed"


def test_an_interrupted_job_ends_the_sweep_of_its_own_process_whatever_the_launcher(
    study, monkeypatch
):
    for engine in ("basic", "joblib"):  # joblib runs jobs here if it may run only one at once
        with locked(study.path), pytest.raises(SystemExit) as end:
            run(study, monkeypatch, engine, code=130, error="signal 2")
        assert end.value.code == 130
        assert study.jobs()[0].status == "interrupted"
    assert run(study, monkeypatch, "joblib", code=130, error="signal 2")[0] is None


def test_a_stopping_study_starts_no_job(study, monkeypatch):
    study.stop()
    assert run(study, monkeypatch) == (None, [])
    assert study.jobs()[0].status == "waiting"


def test_a_job_does_not_start_if_the_study_stopped_while_it_waited_for_a_gpu(study, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "4")
    monkeypatch.setattr(gpus.time, "sleep", lambda _: study.stop())
    with gpus.one_gpu(study, run_config(), "joblib"):
        assert run(study, monkeypatch, "joblib") == (None, [])
    assert study.jobs()[0].status == "waiting"
