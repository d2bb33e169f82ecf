import io

import pytest
from rich.console import Console

from tests.report.made_up import made_up_report, task_score
from toplora_train.config.json_file import write_json_atomically
from toplora_train.report.jobs import Job
from toplora_train.report.numbers import shortened
from toplora_train.report.record import write_report
from toplora_train.report.sweep import LONGEST, sweep_table


def rendered(study, jobs, width=160):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(sweep_table(study, jobs))
    return console.file.getvalue()


def row(name, status="completed", held_out=None):
    return Job("", name, name, status=status, value=held_out)


@pytest.fixture
def jobs(tmp_path):
    write_report(tmp_path / "lora" / "report.json", made_up_report())
    failed = {"schema_version": 1, "status": "failed", "error": "adapter.r must be\nat least 1"}
    write_json_atomically(tmp_path / "toplora" / "report.json", failed)
    statuses = {"lora": "completed", "toplora": "failed", "dora": "waiting", "genlora": "running"}
    return [row(name, status) for name, status in statuses.items()]


def test_every_job_is_a_row_whatever_its_status(tmp_path, jobs):
    lines = rendered(tmp_path, jobs).splitlines()
    for job in jobs:
        assert any(job.overrides in line.split() and job.status in line for line in lines)


def test_a_completed_job_shows_cost_and_score_with_its_interval(tmp_path, jobs):
    (line,) = [line for line in rendered(tmp_path, jobs).splitlines() if " lora " in line]
    for said in ("12,345", "0.4120", "64.0 % (59.2 to 68.6)", "5 min 13 s"):
        assert said in line


def test_results_on_held_out_rows_are_a_column_if_there_are_any(tmp_path, jobs):
    assert "held out" not in rendered(tmp_path, jobs)
    text = rendered(tmp_path, [*jobs, row("lora", held_out=2.34567)])
    assert "held out" in text
    assert "2.3457" in text


def test_a_job_without_tasks_is_shown_as_not_evaluated(tmp_path):
    write_report(tmp_path / "a" / "report.json", made_up_report(tasks={}))
    assert "not evaluated" in rendered(tmp_path, [row("a")])


def test_several_tasks_are_shown_as_their_mean(tmp_path):
    tasks = {"a": task_score(), "b": task_score(100, 400, 80)}
    write_report(tmp_path / "a" / "report.json", made_up_report(tasks=tasks))
    assert "44.5 % (" in rendered(tmp_path, [row("a")])


def test_square_brackets_in_a_job_name_are_shown(tmp_path):
    assert "task=[bold]" in rendered(tmp_path, [row("task=[bold]", "waiting")])


def test_a_job_is_named_by_its_overrides_and_words_are_not_broken(tmp_path):
    name = "adapter=toplora adapter.target_modules=[q_proj]"
    shown = rendered(tmp_path, [row(name, "waiting")], width=80)
    assert all(word in shown for word in name.split())


def test_the_middle_of_a_long_word_is_cut():
    word = "dataset.train=/a/very/long/path/to/a/folder/of/rows/train.jsonl"
    first, last = shortened(f"seed=1 {word}", LONGEST).split()
    assert first == "seed=1"
    assert len(last) <= LONGEST
    assert last.startswith("dataset.train=")
    assert last.endswith("train.jsonl")
