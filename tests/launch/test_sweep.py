"""The jobs of a sweep."""

import io
import json
import threading

import pytest
from rich.console import Console

from toplora_train.launch.parent import JobResult
from toplora_train.launch.sweep import Job, read_jobs, record_job, show_sweep, sweep_exit_code


def job(code: int) -> Job:
    return Job(0, "", None, code, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 2, 2], 2),
        ([0, 2, 1], 1),
        ([1], 1),
        ([0, 2, 130], 130),
        ([143, 1], 143),
    ],
)
def test_the_exit_code_of_a_sweep(codes, expected):
    assert sweep_exit_code([job(code) for code in codes]) == expected


def test_jobs_are_read_back_by_number_whoever_ended_first(tmp_path):
    for number in (2, 0, 1):
        record_job(tmp_path, number, f"seed={number}", JobResult(0, tmp_path / str(number), 1.0))
    assert [entry.number for entry in read_jobs(tmp_path)] == [0, 1, 2]
    assert read_jobs(tmp_path)[1] == Job(1, "seed=1", tmp_path / "1", 0, None)


def test_jobs_that_end_together_do_not_overwrite_each_other(tmp_path):
    threads = [
        threading.Thread(
            target=record_job, args=(tmp_path, number, "x" * 500, JobResult(0, tmp_path, 1.0))
        )
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.number for entry in read_jobs(tmp_path)] == list(range(20))


def test_a_sweep_without_jobs_has_none(tmp_path):
    assert read_jobs(tmp_path) == []


def test_a_job_that_recorded_its_own_end_keeps_the_record(tmp_path):
    (tmp_path / "report.json").write_text('{"status": "interrupted", "error": "signal 2"}')
    record_job(tmp_path, 0, "", JobResult(130, tmp_path, 0.0, "signal 2"))
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "interrupted"


def test_a_job_refused_before_its_worker_started_is_in_the_table(tmp_path):
    run_dir = tmp_path / "0"
    run_dir.mkdir()
    record_job(tmp_path, 0, "seed=-1", JobResult(2, run_dir, 0.0, "seed must be at least 0"))
    assert json.loads((run_dir / "report.json").read_text())["status"] == "failed"
    console = Console(file=io.StringIO(), width=160)
    show_sweep(tmp_path, read_jobs(tmp_path), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "failed" in shown
    assert "job 0 seed=-1: seed must be at least 0" in shown
