"""The record of a run that did not finish."""

import json

import pytest

from toplora_train.launch.outcome import is_completed, read_report, write_failure


def test_a_failure_is_recorded(tmp_path):
    write_failure(tmp_path, status="failed", error="it broke", error_type="ValueError")
    assert read_report(tmp_path) == {
        "schema_version": 1,
        "status": "failed",
        "error": "it broke",
        "error_type": "ValueError",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_later_failure_replaces_an_earlier_one(tmp_path):
    write_failure(tmp_path, status="failed", error="one", error_type="A")
    write_failure(tmp_path, status="interrupted", error="two", error_type="B")
    assert read_report(tmp_path)["error"] == "two"


def test_a_finished_runs_report_stays(tmp_path):
    (tmp_path / "report.json").write_text('{"status": "completed", "average": 1}')
    write_failure(tmp_path, status="failed", error="late", error_type="A")
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "status": "completed",
        "average": 1,
    }
    assert is_completed(tmp_path)


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "[" * 10**5, '{"status": "failed"}'])
def test_anything_else_is_not_a_finished_run(tmp_path, text):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    assert not is_completed(tmp_path)


def test_a_full_disk_does_not_hide_the_failure(tmp_path):
    gone = tmp_path / "gone"
    assert write_failure(gone, status="failed", error="full", error_type="RunFailure") is None
    assert list(tmp_path.iterdir()) == []
