"""The datasets and tasks in ``conf/``: complete, documented, and with the schema's keys."""

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from toplora_train.config.schema import DatasetSettings, TaskSettings
from toplora_train.data.sources import read_rows
from toplora_train.evaluation.answers import is_correct

CONF = Path(__file__).parents[2] / "conf"
DATASETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
HEADS = ("classify", "regress")  # these are labelled texts: see test_labelled.py


def load(group, name):
    text = (CONF / group / f"{name}.yaml").read_text()
    return text, yaml.safe_load(text)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_the_schemas_keys_and_a_description(name):
    text, keys = load("task", name)
    assert text.startswith(f"# @package task.{name}\n# ")
    settings = TypeAdapter(TaskSettings).validate_python(keys)
    assert settings.name == name
    assert settings.licence != "unknown"
    chooses = settings.kind == "classify" or settings.extraction == "choice"
    assert bool(settings.choices) == chooses


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_has_the_schemas_keys_and_names_tasks_that_exist(name):
    _, keys = load("dataset", name)
    for override in keys.pop("defaults", []):
        assert set(override["override /task@_global_.task"]) <= set(TASKS)
    assert TypeAdapter(DatasetSettings).validate_python(keys).name == name


def test_the_commonsense_datasets_have_eight_tasks_and_the_math_dataset_seven():
    def tasks(name):
        return load("dataset", name)[1]["defaults"][0]["override /task@_global_.task"]

    assert len(tasks("commonsense_170k")) == 8
    assert tasks("commonsense_15k") == tasks("commonsense_170k")
    assert len(tasks("math_10k")) == 7
    assert tasks("math_7k") == tasks("math_14k") == tasks("math_10k")


@pytest.mark.parametrize(
    "name", [name for name in TASKS if load("task", name)[1].get("kind") not in HEADS]
)
def test_every_real_label_can_be_extracted(shared_dir, name):
    _, keys = load("task", name)
    path = shared_dir / "data" / keys["source"].replace(":", "/")
    if keys["source"].startswith("llm-adapters:") and not path.exists():
        pytest.skip(f"{name}: its real rows are not at hand ({path})")
    rows = read_rows(keys["source"], data_root=shared_dir / "data", needs_answer=True).rows
    labels = {row.answer for row in rows}
    if keys["extraction"] == "choice":
        assert labels <= set(keys["choices"])
    assert all(is_correct(label, label, keys["extraction"]) for label in labels)
