import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.run.conftest import tiny_run
from toplora_train.config.again import evaluation_config
from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import read_predictions
from toplora_train.run.evaluate import evaluate, form_mismatch


def test_the_saved_adapter_reproduces_the_runs_predictions(trained):
    config, folder = trained
    where, report = evaluate(evaluation_config(config), folder, name="same", command="c")
    for name in ("arithmetic.jsonl", "arithmetic.base.jsonl"):
        assert read_predictions(where / "predictions" / name) == read_predictions(
            folder / "predictions" / name
        )
    own = json.loads((folder / "report.json").read_text())
    assert report["protocol_hash"] == own["protocol_hash"]
    assert report["data"] == own["data"]
    assert "computed after the run" in (where / "report.md").read_text()


def test_listed_answers_can_be_evaluated_as_a_cloze_and_the_report_notes_it(
    trained, tmp_path: Path
):
    config, folder = trained
    (tmp_path / "task").mkdir()
    rows = tmp_path / "rows.jsonl"
    question = "Is water wet?\n\nAnswer1: yes Answer2: never Answer format: answer1/answer2"
    rows.write_text(json.dumps({"instruction": question, "answer": "answer1"}) + "\n")
    (tmp_path / "task" / "wet.yaml").write_text(
        f"# @package task.wet\nname: wet\nsource: {rows}\nextraction: choice\n"
        'choices: ["answer1", "answer2"]\nresponse: the correct answer is {answer}\n'
    )
    again = evaluation_config(
        config, tasks=["wet"], evaluation={"multiple_choice": "cloze"}, own=[tmp_path]
    )
    where, report = evaluate(again, folder, name="cloze", command="c")
    assert report["tasks"]["wet"]["kind"] == "cloze"
    (prediction,) = read_predictions(where / "predictions" / "wet.jsonl")
    assert prediction.scores.keys() == {"answer1", "answer2"}
    assert "Answer1" not in prediction.prompt
    assert prediction.output in ("yes", "never")
    assert "by their labels, but is evaluated in another form" in (where / "report.md").read_text()


def test_the_form_is_that_of_the_tasks_kind(tmp_path: Path):
    config = tiny_run(tmp_path)
    (task,) = config.task.values()
    chosen = replace(task, choices=["a", "b"], response="it is {answer}")
    labels, cloze = (
        replace(config, task={"x": replace(chosen, kind=k)}) for k in ("choose", "cloze")
    )
    by_labels = replace(cloze, evaluation=replace(cloze.evaluation, multiple_choice="generate"))
    assert form_mismatch(cloze, cloze) is None
    assert form_mismatch(by_labels, labels) is None
    assert form_mismatch(config, cloze) is None  # its answers are not chosen
    assert "trained to answer multiple choice as a cloze, but" in form_mismatch(by_labels, cloze)
    assert "(task.x as a cloze)" in form_mismatch(cloze, labels)


def test_a_task_of_the_users_own_can_be_evaluated(trained, tmp_path: Path):
    config, folder = trained
    rows = tmp_path / "own" / "rows.jsonl"
    rows.parent.mkdir()
    rows.write_text(
        "".join(
            json.dumps({"instruction": f"Is {i} odd?", "answer": ["false", "true"][i % 2]}) + "\n"
            for i in range(5)
        )
    )
    task = tmp_path / "own" / "task" / "odd.yaml"
    task.parent.mkdir()
    task.write_text(
        f"# @package task.odd\nname: odd\nsource: {rows}\nextraction: choice\n"
        'choices: ["true", "false"]\nresponse: the correct answer is {answer}\nkind: choose\n'
    )
    again = evaluation_config(config, tasks=["odd"], own=[tmp_path / "own"])
    where, report = evaluate(again, folder, name="odd", command="c")
    assert report["tasks"]["odd"]["kind"] == "choose"
    assert report["tasks"]["odd"]["n"] == 3  # the run's own limit
    assert read_predictions(where / "predictions" / "odd.jsonl")[0].scores.keys() == {
        "true",
        "false",
    }


def test_a_broken_adapter_is_refused_before_the_base_model_is_evaluated(trained, tmp_path: Path):
    config, folder = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "adapter" / "adapter_model.safetensors"
    save_file({k: t for k, t in load_file(file).items() if "theta" not in k}, file)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: not the file that the run"):
        evaluate(evaluation_config(config), copy, name="broken", command="c")
    assert not (copy / "evaluations" / "broken").exists()


def test_rows_that_cannot_be_scored_are_refused_and_leave_no_evaluation(trained, tmp_path: Path):
    config, folder = trained
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "How many?", "answer": "several"}\n')
    (task,) = config.task.values()
    last = replace(
        config, task=config.task | {"last": replace(task, name="last", source=str(rows))}
    )
    with pytest.raises(UserError, match="several"):
        evaluate(last, folder, name="refused", command="c")
    missing = replace(config, task={"gone": replace(task, source=str(tmp_path / "no.jsonl"))})
    with pytest.raises(UserError, match="no such file"):
        evaluate(missing, folder, name="refused", command="c")
    assert not (folder / "evaluations" / "refused").exists()


def test_without_a_task_there_is_nothing_to_evaluate(trained):
    config, folder = trained
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(replace(config, task={}), folder, name="none", command="c")


def test_an_unfinished_run_is_refused_before_anything_is_loaded(tmp_path: Path):
    with pytest.raises(UserError, match=r"report\.json: no such file"):
        evaluate(tiny_run(tmp_path), tmp_path, name="x", command="c")
