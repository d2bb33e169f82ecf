import dataclasses
import json
from pathlib import Path

import pytest

from tests.report.made_up import made_up_report, task_score
from tests.run.finished import finished_run
from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import read_predictions
from toplora_train.report.record import write_report
from toplora_train.run.rescore import rescore

OUTPUTS = {"a": "The answer is 12. Check 3 + 9.", "b": "12", "c": "11"}


def again(folder: Path, config, protocol="legacy.toplora", name="x"):
    return rescore(config, folder, protocol_name=protocol, name=name, command="toplora-eval ...")


def test_stored_outputs_are_rescored_by_other_rules(tmp_path: Path):
    config = finished_run(tmp_path, OUTPUTS)
    folder, report = again(tmp_path, config)
    stored = read_predictions(folder / "predictions" / "arithmetic.jsonl")
    # The last number is 9 (and its full stop), where the clean rules read "the answer is 12".
    assert [(p.prediction, p.correct) for p in stored] == [
        ("9.", False),
        ("12", True),
        ("11", False),
    ]
    assert [p.output for p in stored] == list(OUTPUTS.values())
    assert report["tasks"]["arithmetic"]["value"] == pytest.approx(1 / 3)
    assert report["tasks"]["arithmetic"]["base_value"] == 0
    _, clean = again(tmp_path, config, protocol="clean", name="y")
    assert clean["tasks"]["arithmetic"]["value"] == pytest.approx(2 / 3)


def test_rescored_runs_compare_only_with_runs_rescored_alike(tmp_path: Path):
    config = finished_run(tmp_path, OUTPUTS)
    run = json.loads((tmp_path / "report.json").read_text())
    hashes = {run["protocol_hash"]}
    hashes |= {
        again(tmp_path, config, p, p)[1]["protocol_hash"] for p in ("clean", "legacy.toplora")
    }
    assert len(hashes) == 3
    assert again(tmp_path, config, "clean", "z")[1]["protocol_hash"] in hashes


def test_the_report_notes_the_rescoring(tmp_path: Path):
    folder, report = again(tmp_path, finished_run(tmp_path, OUTPUTS))
    assert json.loads((folder / "report.json").read_text()) == report
    assert (
        "extracted and scored by the rules of legacy.toplora" in (folder / "report.md").read_text()
    )
    assert (folder / "report.html").is_file()


def test_choices_by_likelihood_have_no_text_to_rescore(tmp_path: Path):
    config = finished_run(tmp_path, OUTPUTS)
    chosen = {"arithmetic": dataclasses.replace(task_score(0, 3, 0), kind="choose")}
    write_report(tmp_path / "report.json", made_up_report(tasks=chosen))
    with pytest.raises(UserError, match="task arithmetic: its answers were not generated"):
        again(tmp_path, config)
