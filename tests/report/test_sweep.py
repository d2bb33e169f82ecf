import io

import pytest
from rich.console import Console

from tests.report.made_up import made_up_report, task_score
from toplora_train.report.json_file import write_json_atomically
from toplora_train.report.record import write_report
from toplora_train.report.sweep import sweep_table


def rendered(run_dirs, width=160):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(sweep_table({run_dir.name: run_dir for run_dir in run_dirs}))
    return console.file.getvalue()


@pytest.fixture
def jobs(tmp_path):
    write_report(tmp_path / "0-lora" / "report.json", made_up_report())
    failed = {"schema_version": 1, "status": "failed", "error": "adapter.r must be\nat least 1"}
    write_json_atomically(tmp_path / "1-toplora" / "report.json", failed)
    (tmp_path / "2-dora").mkdir()
    write_json_atomically(
        tmp_path / "3-genlora" / "report.json", {"schema_version": 1, "status": "interrupted"}
    )
    return [tmp_path / name for name in ("0-lora", "1-toplora", "2-dora", "3-genlora")]


def test_every_job_is_a_row_whatever_its_status(jobs):
    text = rendered(jobs)
    lines = {name: line for line in text.splitlines() for name in text.split() if name in line}
    assert "completed" in lines["0-lora"]
    assert "failed" in lines["1-toplora"]
    assert "no report" in lines["2-dora"]
    assert "interrupted" in lines["3-genlora"]


def test_a_completed_job_shows_cost_and_score_with_its_interval(jobs):
    (line,) = [line for line in rendered(jobs).splitlines() if "0-lora" in line]
    for said in ("12,345", "0.4120", "64.0 % (59.2 to 68.6)", "5 min 13 s"):
        assert said in line


def test_a_failed_job_shows_its_error_in_one_line(jobs):
    (line,) = [line for line in rendered(jobs).splitlines() if "1-toplora" in line]
    assert "adapter.r must be at least 1" in line


def test_without_errors_there_is_no_error_column(jobs):
    assert "error" not in rendered(jobs[:1])
    assert "error" in rendered(jobs)


def test_a_job_without_tasks_is_shown_as_not_evaluated(tmp_path):
    write_report(tmp_path / "a" / "report.json", made_up_report(tasks={}))
    assert "not evaluated" in rendered([tmp_path / "a"])


def test_several_tasks_are_shown_as_their_mean(tmp_path):
    tasks = {"a": task_score(), "b": task_score(100, 400, 80)}
    write_report(tmp_path / "a" / "report.json", made_up_report(tasks=tasks))
    assert "44.5 % (" in rendered([tmp_path / "a"])


def test_square_brackets_in_a_job_name_are_shown(tmp_path):
    (tmp_path / "0-task=[bold]").mkdir()
    assert "0-task=[bold]" in rendered([tmp_path / "0-task=[bold]"])


def test_a_job_is_named_by_its_overrides_and_words_are_not_broken(jobs):
    name = "0 adapter=toplora adapter.target_modules=[q_proj]"
    console = Console(file=io.StringIO(), width=80)
    console.print(sweep_table({name: jobs[0]}))
    shown = console.file.getvalue()
    assert all(word in shown for word in name.split())
