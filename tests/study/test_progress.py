"""How far jobs are, on a terminal and elsewhere."""

import io
import json

import pytest
from rich.console import Console

from tests.config.example import run_config
from toplora_train.config.resolved import write_config
from toplora_train.study.folder import Study
from toplora_train.study.progress import Progress


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path)
    configs = [run_config(seed=seed, trainer__max_steps=10) for seed in (1, 2, 3)]
    jobs = study.place([(f"seed={one.seed}", one) for one in configs])
    study.write({"time": "now"}, jobs, {})
    for job, config in zip(jobs, configs, strict=True):
        study.run_dir(job).mkdir()
        write_config(config, study.run_dir(job) / "config.yaml")
    return study


def metrics(study, job, **changes):
    row = {"step": 4, "epoch": 0.5, "loss": 2.5, "tokens": 100, "seconds": 20.0} | changes
    with (study.run_dir(job) / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def shown(progress):
    console = Console(file=io.StringIO(), width=120)
    console.print(progress._table())
    return console.file.getvalue()


def test_the_table_has_state_step_loss_score_and_time_left_of_each_job(study):
    running, ended, waiting = study.jobs()
    study.record(running, "started")
    metrics(study, running, step=2)
    metrics(study, running, validation_loss=2.25)
    with (study.run_dir(running) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # being written
    study.record(ended, "ended", exit_code=0, error=None, seconds=65.0)
    metrics(study, ended, step=10)
    (study.run_dir(ended) / "report.json").write_text('{"average": 0.5}')
    table = shown(Progress(study, study.jobs(), parallel=True))
    lines = {
        job.digest: line
        for job in study.jobs()
        for line in table.splitlines()
        if job.overrides in line
    }
    for said in ("running", " 4 ", "2.5000", "2.2500 held out", "30 s left"):
        assert said in lines[running.digest]
    for said in ("completed", " 10 ", "50.0 %", "1 min 5 s"):
        assert said in lines[ended.digest]
    assert "waiting" in lines[waiting.digest]
    assert "1 of 3 jobs ended" in table


@pytest.mark.parametrize(
    ("trainer", "left"),
    [
        ({"max_steps": 8}, "20 s left"),
        ({"max_tokens": 400}, "1 min 0 s left"),
        ({"epochs": 1}, "20 s left"),
        ({"max_steps": 4}, "evaluating"),
    ],
)
def test_time_left_goes_by_what_ends_the_run(study, trainer, left):
    job = study.jobs()[0]
    config = run_config(trainer=trainer)
    write_config(config, study.run_dir(job) / "config.yaml")
    study.record(job, "started")
    metrics(study, job)
    assert left in shown(Progress(study, [job], parallel=True))


def test_a_table_longer_than_the_terminal_shows_what_happens(study):
    jobs = study.jobs()
    study.record(jobs[2], "started")
    study.record(jobs[0], "ended", exit_code=0, error=None, seconds=1.0)
    progress = Progress(study, jobs, parallel=True)
    progress._rows = 1
    table = shown(progress)
    assert "seed=3" in table
    assert "seed=1" not in table


def test_elsewhere_a_parallel_job_has_a_line_as_it_starts_and_as_it_ends(study, capsys):
    first, second, _ = study.jobs()
    with Progress(study, study.jobs(), parallel=True) as progress:
        study.record(first, "started")
        progress._say_changes()
        study.record(first, "ended", exit_code=0, error=None, seconds=2.0)
        study.record(second, "ended", exit_code=2, error="wrong", seconds=0.5)
    assert capsys.readouterr().out.splitlines() == [
        "job 1 of 3: seed=1: running",
        "job 1 of 3: seed=1: completed in 2.0 s",
        "job 2 of 3: seed=2: failed in 0.5 s: wrong",
    ]


def test_jobs_of_this_process_print_themselves(study, capsys):
    with Progress(study, study.jobs(), parallel=False):
        study.record(study.jobs()[0], "started")
    assert capsys.readouterr().out == ""
