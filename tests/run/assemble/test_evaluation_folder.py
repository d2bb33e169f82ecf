import json
from pathlib import Path

import pytest

from tests.report.made_up import task_score
from tests.run.finished import finished_run
from toplora_train.config.errors import UserError
from toplora_train.run.assemble.evaluation_folder import (
    open_folder,
    write_evaluation,
)


def test_a_finished_evaluation_is_not_overwritten(tmp_path: Path):
    folder = open_folder(tmp_path, "x")
    assert not folder.exists()
    folder.mkdir(parents=True)
    assert open_folder(tmp_path, "x") == folder  # an interrupted one resumes
    (folder / "report.json").write_text("{}")
    with pytest.raises(UserError, match="holds a finished evaluation; choose another name"):
        open_folder(tmp_path, "x")


@pytest.mark.parametrize("name", ["a/b", "..", "/x"])
def test_a_name_leads_nowhere_else(tmp_path: Path, name):
    with pytest.raises(UserError, match="must be a plain name"):
        open_folder(tmp_path, name)


def test_the_report_is_the_runs_with_other_scores(tmp_path: Path):
    finished_run(tmp_path, {"a": "1"})
    folder = open_folder(tmp_path, "x")
    report = write_evaluation(
        folder,
        tmp_path,
        {"gsm8k": task_score(300, 400, 100)},
        command="toplora-eval run=x",
        protocol="clean",
        protocol_hash="abc",
        contamination={"gsm8k": {"rows": 0, "ids": []}},
        note="later",
    )
    run = json.loads((tmp_path / "report.json").read_text())
    changed = {key for key in run if run[key] != report[key]}
    assert changed == {
        "command",
        "protocol_hash",
        "tasks",
        "average",
        "average_ci95",
        "average_base_value",
        "average_base_ci95",
        "gain",
        "data",
        "notes",
    }
    assert report["average"] == 0.75
