"""A finished run's results are kept in full when the run is extended."""

import json

import pytest

from tests.report.made_up import made_up_report
from toplora_train.report.earlier import earlier_ends, keep_end, undo_unbegun
from toplora_train.report.record import read_report, write_report


@pytest.fixture
def run(tmp_path):
    write_report(tmp_path / "report.json", made_up_report())  # 150 steps
    (tmp_path / "config.yaml").write_text("of the finished run")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"tensors")
    (tmp_path / "checkpoints" / "step-00000150").mkdir(parents=True)
    return tmp_path


def test_an_end_is_a_finished_run_without_its_checkpoints(run):
    folder = keep_end(run)
    assert folder == run / "earlier" / "step-00000150"
    assert read_report(folder / "report.json") == read_report(run / "report.json")
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == b"tensors"
    assert not (folder / "checkpoints").exists()
    assert [entry.name for entry in (run / "earlier").iterdir()] == [folder.name]
    (end,) = earlier_ends(run)
    assert (end.folder, end.step) == (folder, 150)
    assert end.command == "toplora-train recipe=smoke seed=3"


def test_an_extension_that_never_started_is_undone(run):
    keep_end(run)
    (run / "config.yaml").write_text("of the extension")
    undo_unbegun(run)
    assert (run / "config.yaml").read_text() == "of the finished run"
    assert not (run / "earlier").exists()


def test_an_extension_that_started_is_not_undone(run):
    keep_end(run)
    (run / "config.yaml").write_text("of the extension")
    for report in (None, {"schema_version": 1, "status": "interrupted"}):
        (run / "report.json").unlink(missing_ok=True)
        if report is not None:
            (run / "report.json").write_text(json.dumps(report))
        undo_unbegun(run)
        assert (run / "config.yaml").read_text() == "of the extension"
        assert len(earlier_ends(run)) == 1


def test_a_run_that_was_not_extended_has_no_earlier_ends(run):
    assert earlier_ends(run) == []
    undo_unbegun(run)
    assert (run / "config.yaml").read_text() == "of the finished run"
