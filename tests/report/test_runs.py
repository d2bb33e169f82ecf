import json
from pathlib import Path

import pytest
from sklearn import metrics

from tests.report.run_folders import run_folder
from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import read_predictions
from toplora_train.report.runs import find_runs, task_scores


def test_a_folder_named_twice_is_one(tmp_path: Path):
    run_folder(tmp_path / "a")
    assert len(find_runs([tmp_path, tmp_path / "a"])) == 1


def test_a_later_evaluation_has_the_settings_and_command_of_its_run(tmp_path: Path):
    home = run_folder(tmp_path / "a", command="toplora-train recipe=smoke")
    later = run_folder(tmp_path / "x", lr=5e-2, command="toplora-eval run=a")
    (home / "evaluations").mkdir()
    (later / "config.yaml").unlink()
    later.rename(home / "evaluations" / "x")
    (run,) = find_runs([home / "evaluations" / "x"])
    assert run.settings["optimizer.lr"] == 1e-3
    assert run.command == "toplora-train recipe=smoke"


def test_a_folder_without_a_completed_run_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="not a run directory"):
        find_runs([tmp_path])
    folder = run_folder(tmp_path / "a")
    (folder / "report.json").write_text(json.dumps({"schema_version": 1, "status": "failed"}))
    with pytest.raises(UserError, match="a: its status is failed, not completed"):
        find_runs([folder])


def test_predictions_for_different_rows_are_refused(tmp_path: Path):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=2, right={"t": [True] * 10})
    runs = find_runs([tmp_path])
    assert task_scores(runs[:1], "t", "accuracy").values == pytest.approx([0.5])
    with pytest.raises(UserError, match="b: its stored predictions on t are for different rows"):
        task_scores(runs, "t", "accuracy")


@pytest.mark.parametrize(
    ("metric", "oracle"), [("f1", metrics.f1_score), ("matthews", metrics.matthews_corrcoef)]
)
def test_a_metric_is_recomputed_from_the_stored_predictions(tmp_path: Path, metric, oracle):
    folder = run_folder(tmp_path / "a", right={"t": [i % 4 != 0 for i in range(30)]})
    rows = read_predictions(folder / "predictions" / "t.jsonl")
    found = task_scores(find_runs([folder]), "t", metric)
    labels, predicted = (
        [one == "x" for one in column]
        for column in zip(*((row.label, row.prediction) for row in rows), strict=True)
    )
    assert found.values == pytest.approx([oracle(labels, predicted)])


def test_an_invalid_label_is_named(tmp_path: Path):
    folder = run_folder(tmp_path / "a", right={"t": [True, False]})
    path = folder / "predictions" / "t.jsonl"
    path.write_text(path.read_text().replace('"prediction": "y"', '"prediction": "z"'))
    with pytest.raises(UserError, match=r"t\.jsonl: 'z' is not a valid label of the task"):
        task_scores(find_runs([folder]), "t", "f1")


def test_the_limit_of_a_later_evaluation_is_that_of_its_command(tmp_path: Path):
    for name, command in (
        ("a", "toplora-eval run=x limit=7 limit=9"),
        ("b", "toplora-eval run=x limit=null"),
        ("c", "toplora-train recipe=smoke evaluation.limit=3"),
    ):
        run_folder(tmp_path / name, command=command, seed=ord(name), limit=3)
    assert [run.limit for run in find_runs([tmp_path])] == [9, None, 3]
