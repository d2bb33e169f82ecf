import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from tests.report.run_folders import run_folder
from toplora_train.config.errors import UserError
from toplora_train.evaluation.metrics import Measured
from toplora_train.report.archive import Found, _public, read_archive, read_runs, write_archive
from toplora_train.report.comparison import compare_runs
from toplora_train.report.jobs import Unfinished, failed_rates
from toplora_train.report.runs import find_runs

HALF, MORE = [True, False] * 20, [True, True, False, True] * 10
F1 = {"f1": dataclasses.asdict(Measured(0.5, (0.4, 0.6)))}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two methods on a task each, with tuning runs."""
    for task in ("t", "u"):
        for seed, extra in ((1, True), (2, False)):
            for adapter, right in (("lora", HALF), ("toplora", [extra, *MORE[1:]])):
                folder = tmp_path / "S" / f"{adapter}-{task}-{seed}"
                run_folder(
                    folder,
                    adapter=adapter,
                    seed=seed,
                    right={task: right},
                    kind="classify",
                    more=F1,
                    step_seconds=seed / 10,
                    held_out=None,
                )
    for rate, loss in ((1e-4, 0.5), (1e-3, 0.4)):
        folder = tmp_path / "S" / "tuning" / f"{rate}"
        run_folder(folder, lr=rate, held_out=loss, kind="classify", more=F1, right={"t": HALF})
    return tmp_path / "S"


def compared(found: Found):
    document = compare_runs(found.runs, tuning=found.tuning, unfinished=found.unfinished)
    for method in document["methods"]:
        del method["runs"]  # their folders
    return document


def test_an_archive_is_compared_like_the_folders_it_was_written_from(study: Path, tmp_path: Path):
    folders = read_runs([study])
    assert len(folders.tuning) == 2
    write_archive(tmp_path / "S.json", folders, ["toplora-train -m x"])
    assert compared(read_archive(tmp_path / "S.json")) == compared(folders)
    assert compared(read_runs([tmp_path / "S.json"])) == compared(folders)


def test_an_archive_names_what_was_not_completed_and_the_rates_that_failed(study, tmp_path):
    folders = read_runs([study])
    like = folders.tuning[1].folder
    failed = Unfinished("lr=1e-2", "failed", "NaN", "toplora-train x", True, rate=1e-2, like=like)
    cut = Unfinished("seed=3", "interrupted", "", "toplora-train x")
    write_archive(tmp_path / "S.json", dataclasses.replace(folders, unfinished=[failed, cut]), [])
    found = read_archive(tmp_path / "S.json")
    assert failed_rates(found.unfinished) == {found.tuning[1].folder: [1e-2]}
    document = compared(found)
    assert document["learning_rates"]["curves"]["lora"]["edge"] is None
    assert (
        "2 runs of the study are not completed and not compared: lr=1e-2 (failed); seed=3 "
        "(interrupted)."
    ) in document["warnings"]


def test_methods_that_differ_in_a_path_alone_do_so_in_an_archive(tmp_path: Path):
    for seed, place in ((1, "x"), (2, "x"), (1, "y"), (2, "y")):
        folder = run_folder(tmp_path / "S" / f"{place}{seed}", seed=seed)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["adapter"]["start_from"] = f"/home/me/{place}/adapter"
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_archive(tmp_path / "S.json", read_runs([tmp_path / "S"]), [])
    found = compared(read_archive(tmp_path / "S.json"))
    assert [method["seeds"] for method in found["methods"]] == [[1, 2], [1, 2]]
    assert "/home" not in (tmp_path / "S.json").read_text()


def test_an_archive_of_an_archive_has_the_same_content(study: Path, tmp_path: Path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_archive(first, Found(find_runs([study]), [], []), [])
    write_archive(second, read_archive(first), [])
    assert json.loads(first.read_text()) == json.loads(second.read_text())


def test_an_archive_names_no_folder_of_the_machine(study: Path, tmp_path: Path):
    for path in study.glob("*/report.json"):
        values = json.loads(path.read_text())
        values["model"] |= {"path": "/home/me/model", "read_from": "/home/me/model"}
        values["command"] = "toplora-train model.path=/home/me/model"
        path.write_text(json.dumps(values))
    write_archive(
        tmp_path / "S.json", Found(find_runs([study]), [], []), ["toplora-train data_root=/srv/x"]
    )
    text = (tmp_path / "S.json").read_text()
    assert "/home" not in text
    assert "/srv" not in text
    assert "model.path=model" in text


def test_what_all_runs_share_is_written_once(study: Path, tmp_path: Path):
    write_archive(tmp_path / "S.json", Found(find_runs([study]), [], []), [])
    assert (tmp_path / "S.json").read_text().count('"trainer.batch_size"') == 1


def test_a_task_whose_answers_are_numbers_is_refused(tmp_path: Path):
    run_folder(tmp_path / "a", metric="pearson")
    (run,) = find_runs([tmp_path])
    without = dataclasses.replace(run, choices={})
    with pytest.raises(UserError, match="t cannot be archived; its answers are numbers"):
        write_archive(tmp_path / "S.json", Found([without], [], []), [])


def test_a_label_that_is_no_class_of_its_task_is_refused_by_its_file(tmp_path: Path):
    run_folder(tmp_path / "a", kind="classify")
    (run,) = find_runs([tmp_path])
    other = dataclasses.replace(run, choices={"t": ["x", "z"]})
    with pytest.raises(UserError, match=r"t\.jsonl: 'y' is not a valid label of the task"):
        write_archive(tmp_path / "S.json", Found([other], [], []), [])


def test_each_run_keeps_its_own_limit_of_rows(tmp_path: Path):
    for seed, limit in ((1, None), (2, 7)):
        run_folder(tmp_path / f"{seed}", seed=seed, limit=limit)
    write_archive(tmp_path / "S.json", Found(find_runs([tmp_path]), [], []), [])
    runs = read_archive(tmp_path / "S.json").runs
    assert [run.limit for run in runs] == [None, 7]


def test_runs_on_different_rows_are_refused(tmp_path: Path):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=2, right={"t": HALF})
    with pytest.raises(UserError, match="b: its stored predictions on t are for different rows"):
        write_archive(tmp_path / "S.json", Found(find_runs([tmp_path]), [], []), [])


def test_a_damaged_archive_names_the_run(study: Path, tmp_path: Path):
    path = tmp_path / "S.json"
    write_archive(path, Found(find_runs([study]), [], []), [])
    values = json.loads(path.read_text())
    values["runs"][2]["answers"] = dict.fromkeys(values["rows"], "01")
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"run 3: its answers to . are not"):
        read_archive(path)


def test_an_archive_without_a_run_is_refused(study: Path, tmp_path: Path):
    write_archive(tmp_path / "S.json", Found([], find_runs([study]), []), [])
    with pytest.raises(UserError, match=r"S\.json: has no run to compare"):
        read_archive(tmp_path / "S.json")


def test_a_prompt_is_archived_as_it_is_and_a_path_is_not():
    report = {"data": {"prompt": "{question} yes /no /maybe", "source": "/home/me/rows.jsonl"}}
    assert _public(report) == {
        "data": {"prompt": "{question} yes /no /maybe", "source": "rows.jsonl"}
    }
