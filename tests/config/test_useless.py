"""Settings on the command line that the run would ignore are rejected by name."""

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
    ("key", "changes", "message"),
    [
        ("evaluation.multiple_choice", {}, "language-model tasks with choices"),
        ("evaluation.option_score", {}, "no task is evaluated so"),
        ("evaluation.option_score", {"task__boolq": CHOICES}, "no task is evaluated so"),
        ("dataset.test_extraction", {}, "applies to the rows of dataset.test"),
        ("dataset.fields", {"task__boolq": HEAD}, "describes the rows of a language model"),
        ("dataset.prompt", {"task__boolq": HEAD}, "describes the rows of a language model"),
        (
            "dataset.prompt",
            {"task__boolq": CHOICES | {"source": "owner/rows"}, "dataset__train": "task:train"},
            "task:SPLIT uses the task's own",
        ),
        (
            "dataset.subset",
            {"task__boolq": HEAD, "dataset__train": "task:train"},
            "task:SPLIT uses the task's source",
        ),
        ("dataset.max_length", {"dataset__image": "image"}, "these rows are images"),
        ("dataset.split", {"dataset__train": "rows.jsonl"}, "of a single file give a slice"),
        ("task.boolq.split", {"task__boolq": CHOICES}, "rows.json is a single file"),
        ("optimizer.no_decay", {}, "optimizer.weight_decay is 0"),
        (
            "optimizer.betas",
            {"optimizer__name": "lorsum"},
            "lorsum has optimizer.settings.momentum",
        ),
        ("optimizer.eps", {"optimizer__name": "lorsum"}, "is AdamW's"),
        ("launch.engine", {}, "over several processes"),
        ("launch.shard", {}, "no other engine shards it"),
        ("adapter.gate.norm", {"adapter__gate": {"enabled": False}}, "gate.enabled=false"),
    ],
)
def test_a_typed_setting_without_effect_is_rejected(key, changes, message):
    config = run_config(**changes)
    with pytest.raises(UserError, match=rf"^{key.replace('.', '[.]')} .*{message}"):
        validate_useful(config, {key})
    validate_useful(config, set())


def test_settings_with_an_effect_pass():
    keys = {key for use in USES for key in use.keys} - {"dataset.fields"}
    config = run_config(
        task__boolq=CHOICES,
        dataset__train="owner/rows",
        dataset__test="test.jsonl",
        evaluation__multiple_choice="choose",
        optimizer__weight_decay=0.1,
        launch__processes=2,
        launch__engine="fsdp2",
    )
    validate_useful(config, keys | {"dataset.fields"})


def test_the_real_command_line_is_validated(refused):
    line = refused("adapter.gate.enabled=false", "adapter.gate.norm=none")
    assert line == "adapter.gate.norm configures the gate, which adapter.gate.enabled=false removes"
