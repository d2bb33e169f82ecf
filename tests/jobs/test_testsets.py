import json
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import DatasetSettings, TaskSettings
from toplora_train.jobs.testsets import read_test_sets

ARITHMETIC = TaskSettings(
    name="arithmetic", source="bundled:arithmetic/test.jsonl", extraction="number"
)


def read(tasks, dataset=None, limit=None):
    return read_test_sets(tasks, dataset or DatasetSettings(name="d"), data_root=None, limit=limit)


def test_a_task_brings_its_rows_and_how_they_are_scored():
    (found,) = read({"arithmetic": ARITHMETIC}, limit=5)
    assert len(found.rows.rows) == 5
    assert (found.name, found.extraction) == ("arithmetic", "number")


def test_the_users_test_rows_are_one_more_task(tmp_path: Path):
    rows = tmp_path / "b.jsonl"
    rows.write_text(json.dumps({"instruction": "1 + 1?", "output": "2"}) + "\n")
    dataset = DatasetSettings(name="jsonl", test=str(rows), test_max_new_tokens=9)
    found = read({"arithmetic": ARITHMETIC}, dataset)
    assert [test_set.name for test_set in found] == ["arithmetic", "test"]
    assert found[1].max_new_tokens == 9


def test_two_tasks_named_test_are_refused(tmp_path: Path):
    dataset = DatasetSettings(name="jsonl", test=str(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match="named 'test'"):
        read({"test": ARITHMETIC}, dataset)


def test_no_tasks_is_no_test_set():
    assert read({}) == []
