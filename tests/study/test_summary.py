"""The end of a sweep."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.report.run_folders import run_folder
from toplora_train.config.schema import TrackerSettings
from toplora_train.report.jobs import Job
from toplora_train.report.trackers import tensorboard
from toplora_train.study.folder import Study
from toplora_train.study.summary import show_summary, sweep_exit_code


def test_a_tracker_gets_the_comparison_as_a_run_of_the_studys_group(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    given = []

    class Kept:
        def finish(self, summary, files):
            given.extend([summary, [file.name for file in files]])

    monkeypatch.setattr(tensorboard, "open_run", lambda run: given.append(run) or Kept())
    for adapter in ("lora", "toplora"):
        run_folder(tmp_path / "S" / adapter, adapter=adapter)
    jobs = [Job("", name, name, status="completed") for name in ("lora", "toplora")]
    launcher = SimpleNamespace(
        study=Study(tmp_path / "S"),
        jobs=lambda: jobs,
        tracker=TrackerSettings("tensorboard", group="S"),
        searches=False,
        has_phases=False,
    )
    show_summary(launcher, Console(file=io.StringIO(), width=160), interrupted=False)
    run, summary, files = given
    assert (run.name, run.settings.group, run.folder.name) == ("S comparison", "S", "comparison")
    assert summary == {"average/lora": 0.5, "average/toplora": 0.5}
    assert [f"comparison.{kind}" for kind in ("csv", "html", "json", "md", "tex")] == files


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
    assert sweep_exit_code(codes) == expected
