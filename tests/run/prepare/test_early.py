"""Rows are checked without torch, and as strictly as the run itself checks them."""

import json
from dataclasses import replace

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.config.schema import TaskSettings
from toplora_train.run.prepare.early import check_rows

GOOD = {"instruction": "2 + 2?", "output": "4", "answer": "4"}


def run(folder, *records, test=(), **settings):
    for name, rows in (("a.jsonl", records), ("b.jsonl", test)):
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    config = tiny_run(folder)
    dataset = replace(
        config.dataset,
        train=str(folder / "a.jsonl"),
        test=str(folder / "b.jsonl") if test else None,
        **settings,
    )
    return replace(config, dataset=dataset, task={})


def test_good_rows_pass(tmp_path):
    check_rows(run(tmp_path, GOOD, test=[GOOD]))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"instruction": "?"}, "a.jsonl, line 2: no 'output' to train on"),
        ({"instruction": "?", "response": "!"}, r"line 2: .* try .*fields='\{output: response\}'"),
        ({"question": "?"}, "a.jsonl, line 2: no 'instruction'"),
        ({"messages": [{"role": "user", "content": "?"}]}, "does not end with an assistant"),
    ],
)
def test_a_bad_training_row_is_named(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        check_rows(run(tmp_path, GOOD, record))


def test_a_bad_test_row_is_named(tmp_path):
    with pytest.raises(UserError, match=r"b\.jsonl, line 2: no 'answer'"):
        check_rows(run(tmp_path, GOOD, test=[GOOD, {"instruction": "?"}]))


def test_a_tasks_labels_are_checked(tmp_path):
    config = run(tmp_path, {"text": "x", "label": "a"}, {"text": "y", "label": "z"})
    task = TaskSettings(
        name="t", source=str(tmp_path / "a.jsonl"), kind="classify", choices=["a", "b"]
    )
    with pytest.raises(UserError, match=r"line 2: 'label' is \"z\", which is none of the choices"):
        check_rows(replace(config, task={"t": task}))


def test_a_missing_file_is_named(tmp_path):
    config = run(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"missing\.jsonl: no such file"):
        check_rows(replace(config, dataset=replace(config.dataset, train="missing.jsonl")))


@pytest.mark.parametrize("source", ["owner/name", "llm-adapters:ft-training_set/missing.json"])
def test_what_is_not_a_local_file_waits_for_the_run(tmp_path, source):
    config = run(tmp_path, GOOD)
    check_rows(replace(config, dataset=replace(config.dataset, train=source)))


def test_a_name_that_no_file_can_have_waits_for_the_run(tmp_path):
    config = run(tmp_path, GOOD)
    check_rows(replace(config, dataset=replace(config.dataset, train="x" * 300 + ".jsonl")))
