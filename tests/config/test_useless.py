"""What the command line sets and the run would ignore is refused by name."""

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.config.useless import USES, validate_useful

HEAD = {"name": "boolq", "source": "owner/rows", "kind": "classify", "choices": ["a", "b"]}
CHOICES = {
    "name": "boolq",
    "source": "rows.json",
    "choices": ["a", "b"],
    "response": "it is {answer}",
}


@pytest.mark.parametrize(
    ("key", "changes", "said"),
    [
        ("evaluation.multiple_choice", {}, "is about tasks with choices"),
        ("evaluation.option_score", {}, "no task is asked so"),
        ("evaluation.option_score", {"task__boolq": CHOICES}, "no task is asked so"),
        ("dataset.test_extraction", {}, "is about the rows of dataset.test"),
        ("dataset.fields", {"task__boolq": HEAD}, "is about rows that a model writes for"),
        ("dataset.prompt", {"task__boolq": HEAD}, "is about rows that a model writes for"),
        (
            "dataset.prompt",
            {"task__boolq": CHOICES | {"source": "owner/rows"}, "dataset__train": "task:train"},
            "whose keys are task.NAME.fields",
        ),
        (
            "dataset.subset",
            {"task__boolq": HEAD, "dataset__train": "task:train"},
            "task:SPLIT takes the task's own",
        ),
        ("dataset.split", {}, "a single file is read whole"),
        ("task.boolq.split", {}, "boolq.json is a single file"),
        ("optimizer.no_decay", {}, "optimizer.weight_decay is 0"),
        ("launch.engine", {}, "joins several processes"),
        ("adapter.gate.norm", {"adapter__gate": {"enabled": False}}, "gate.enabled=false"),
    ],
)
def test_a_setting_without_a_use_is_refused_where_it_was_typed(key, changes, said):
    config = run_config(**changes)
    with pytest.raises(UserError, match=rf"^{key.replace('.', '[.]')} .*{said}"):
        validate_useful(config, {key})
    validate_useful(config, set())


def test_settings_with_a_use_pass():
    keys = {key for use in USES for key in use.keys} - {"dataset.fields"}
    config = run_config(
        task__boolq=CHOICES,
        dataset__train="owner/rows",
        dataset__test="test.jsonl",
        evaluation__multiple_choice="choose",
        optimizer__weight_decay=0.1,
        launch__processes=2,
    )
    validate_useful(config, keys | {"dataset.fields"})


def test_the_command_line_is_looked_at(refused):
    line = refused("adapter.gate.enabled=false", "adapter.gate.norm=none")
    assert (
        line == "adapter.gate.norm is about the gate, which adapter.gate.enabled=false leaves out"
    )
